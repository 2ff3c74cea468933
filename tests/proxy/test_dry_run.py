"""What a plan's run may ask. The behaviour against a real API server is in tests/behaviour/test_dry_runs.py."""

from __future__ import annotations

import json

import pytest

from runner.proxy.dry_run import DryRun, Refusal, check_read, check_write, is_question
from runner.proxy.requestinfo import parse

MAPS = "/api/v1/namespaces/here/configmaps"
DRY = json.dumps({"kind": "DeleteOptions", "dryRun": ["All"]}).encode()
WET = json.dumps({"kind": "DeleteOptions"}).encode()


@pytest.mark.parametrize(
    ("method", "path", "dry_run", "body", "passes"),
    [
        ("POST", MAPS, ["All"], b"{}", True),
        ("POST", MAPS, [], b"{}", False),
        ("POST", MAPS, [""], b"{}", False),
        ("POST", MAPS, ["All", "Some"], b"{}", False),
        ("PATCH", f"{MAPS}/one", ["All"], b"{}", True),
        ("PATCH", "/apis/apps/v1/namespaces/here/deployments/one/scale", ["All"], b"{}", True),
        ("DELETE", f"{MAPS}/one", ["All"], None, True),
        ("DELETE", f"{MAPS}/one", [], None, False),
        # The server reads the body instead of the query.
        ("DELETE", f"{MAPS}/one", ["All"], WET, False),
        ("DELETE", f"{MAPS}/one", [], DRY, True),
        ("DELETE", MAPS, ["All"], b"dryRun: [All]", False),
        ("POST", "/api/v1/namespaces/here/pods/one/exec", ["All"], b"", False),
        ("POST", "/api/v1/namespaces/here/pods/one/eviction", ["All"], b"{}", False),
        ("POST", "/api/v1/namespaces/here/serviceaccounts/one/token", ["All"], b"{}", False),
        ("POST", "/api/v1/namespaces/here/pods%2Fone%2Feviction", ["All"], b"{}", False),
        ("POST", "/elsewhere", ["All"], b"{}", False),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, str) else None,
)
def test_a_write_has_to_be_a_dry_run_for_certain(
    method: str, path: str, dry_run: list[str], body: bytes | None, passes: bool
) -> None:
    if passes:
        sent = check_write(method, path, dry_run=dry_run, body=body)
        assert sent == body
    else:
        with pytest.raises(Refusal, match="this run is a plan"):
            check_write(method, path, dry_run=dry_run, body=body)


def test_a_read_may_be_no_way_to_exec() -> None:
    check_read("GET", MAPS, connects=False)
    with pytest.raises(Refusal):
        check_read("GET", "/api/v1/namespaces/here/pods/one/exec", connects=True)
    with pytest.raises(Refusal):
        check_read("GET", "/api/v1/namespaces/here/pods/one/log/%2e%2e/exec", connects=False)


def test_questions_that_are_asked_by_creating_something() -> None:
    assert is_question("POST", parse("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"))
    assert not is_question("POST", parse("/apis/apps/v1/namespaces/here/deployments"))
    assert not is_question("DELETE", parse("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"))


def test_what_was_deleted_at_once_has_its_list_s_kind() -> None:
    dry_run = DryRun(cr={}, path="")
    answer = {"kind": "PodList", "apiVersion": "v1", "items": [{"metadata": {"name": name}} for name in ("a", "b")]}
    dry_run.record_deletion(before=None, answer=answer)
    assert [change.title for change in dry_run.changes] == ["Pod a", "Pod b"]
