"""The pages as they are served, of an operator whose parts are as a test fills them."""

from __future__ import annotations

import html
import json
import re
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock
from urllib.parse import quote

import pytest
from yarl import URL

from runner.config.watches import Content, Watch
from runner.control import Priority, Request, RequeueReason
from runner.control.records import ReconcileRecord, ReconcileStatus, Requeue, RunRecord
from runner.dashboard import pages
from runner.dashboard.access import Caller
from runner.executor.jobs import JobEvent, Outcome
from runner.kube.client import Unreachable
from runner.proxy.sessions import ApiRequest
from tests.dashboard.stage import Stage

NASTY = "<script>alert(1)</script>\u202egpj.\u200b\ud800\x1b[31m\x00"
SHOWN = "&lt;script&gt;alert(1)&lt;/script&gt;\\u202egpj.\\u200b\\ud800\\u001b[31m\\u0000"
IDENT = "0123456789abcdef"


def ran(
    stage: Stage, request: Request, *, ident: str = IDENT, artifacts: Path | None = None, **fields: Any
) -> ReconcileRecord:
    """A reconcile with a run that has ended."""
    stage.queue.add(request, Priority.CHANGE)
    record = stage.history.begin(request, Priority.CHANGE, 0.5)
    record.cause = fields.pop("cause", "changed")
    run = RunRecord(ident=ident, content=Path("/roles/x"), artifacts=artifacts, is_dry_run=False)
    stage.history.begin_run(record, run)
    for raw in fields.pop("events", ()):
        run.add_event(JobEvent.of(raw))
    run.end(fields.pop("outcome", Outcome(ok=1)))
    record.finish_phase("tasks", record.begun, record.begun + 0.1)
    record.end(fields.pop("status", ReconcileStatus.SUCCEEDED))
    record.requeue = Requeue(record.begun + 60, RequeueReason.PERIOD)
    stage.history.end(record)
    return record


def event(counter: int, kind: str, task: str, **data: Any) -> dict[str, Any]:
    names = {"task_uuid": f"uuid-{task}", "task": task, "task_action": "debug", "role": "x", "task_path": "/x/main.yml:1"}
    created = f"2026-01-01T00:00:{counter % 60:02}+00:00"
    return {"event": kind, "counter": counter, "created": created, "stdout": "", "event_data": {**names, **data}}


def write(folder: Path, *events: dict[str, Any]) -> Path:
    """Artifacts with these events."""
    (folder / "job_events").mkdir(parents=True, exist_ok=True)
    for each in events:
        (folder / "job_events" / f"{each['counter']}-{each['counter']:032x}.json").write_text(json.dumps(each))
    return folder


def text_of(page: str) -> str:
    """What somebody reads on a page."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


async def test_an_overview_without_crs_says_how_to_begin(stage: Stage) -> None:
    stage.cluster.rights = {("ann", "list", "*")}
    answer = await stage.get("/", token="token-of-ann")
    assert answer.status == 200
    assert "No custom resources yet" in answer.text
    assert "kubectl apply -f config/samples/" in answer.text


async def test_the_overview_has_crs_with_state_cause_and_next_run(stage: Stage) -> None:
    stage.cluster.rights = {("ann", "list", "*"), ("ann", "get", "*")}
    ran(stage, stage.add("one"), cause="Deployment a/x changed: spec.replicas")
    failing = {"status": {"conditions": [{"type": "Failure", "status": "True", "reason": "Failed", "message": NASTY}]}}
    stage.add("two", **failing)
    answer = await stage.get("/", token="token-of-ann")
    text = text_of(answer.text)
    assert "Deployment a/x changed: spec.replicas" in text
    assert SHOWN in answer.text
    assert "<script>alert" not in answer.text
    assert "2 of 2" in text
    failed = text_of((await stage.get("/?state=waiting&text=ONE", token="token-of-ann")).text)
    assert "1 of 2" in failed


async def test_the_overview_shows_what_its_caller_may_list_alone(stage: Stage) -> None:
    stage.cluster.rights = {("bob", "list", "a")}
    ran(stage, stage.add("mine", "a"))
    ran(stage, stage.add("theirs", "b"), ident="f" * 16)
    answer = await stage.get("/", token="token-of-bob")
    assert "mine" in answer.text
    assert "theirs" not in answer.text
    assert "1 of 1" in text_of(answer.text)
    assert "runs in the last hour" not in answer.text
    assert "Slowest roles" not in answer.text
    assert 'value="b"' not in answer.text


@pytest.mark.parametrize(
    "query", ["page=99999999999999999", "page=-1", "page=x", "page=%D9%A3", "state=no&kind=no", "text=%00%FF"]
)
async def test_any_query_is_answered(local: Stage, query: str) -> None:
    local.add()
    answer = await page(local, f"/?{query}")
    assert "Custom resources" in answer


async def test_the_page_of_a_cr(local: Stage) -> None:
    conditions = [
        {"type": "Successful", "status": "True", "reason": NASTY, "message": "fine", "lastTransitionTime": "no time"}
    ]
    one = local.add("one", status={"conditions": conditions, "observedGeneration": 0})
    local.dependents.append(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": NASTY, "namespace": "a", "uid": "d", "ownerReferences": [{"uid": "uid-one"}]},
            "spec": {"replicas": 3, "template": {}},
            "status": {"readyReplicas": 1},
        }
    )
    ran(local, one, ident="a" * 16, cause=NASTY)
    ran(local, one, ident="b" * 16, status=ReconcileStatus.FAILED, outcome=Outcome(failures=1, messages=(NASTY,)))
    answer = await page(local, "/cr/example.com/v1/Thing/a/one")
    text = text_of(answer)
    assert "1 of 3 ready" in text
    assert "last run: 0" in text
    assert "waits since" in text
    assert f"/run/{'a' * 16}" in answer
    assert "<script>alert" not in answer
    assert answer.count(SHOWN) >= 3
    assert 'action="/cr/example.com/v1/Thing/a/one/run"' in answer


async def test_a_cr_that_is_gone_keeps_its_history(local: Stage) -> None:
    one = local.add("one")
    ran(local, one)
    local.dashboard.observe(one, None)
    answer = await page(local, "/cr/example.com/v1/Thing/a/one")
    assert "It is gone" in answer
    assert IDENT in answer
    assert "Conditions" not in answer


@pytest.mark.parametrize(
    "path",
    [
        "/cr/example.com/v1/Thing/a/other",
        "/cr/example.com/v1/Other/a/one",
        "/cr/example.com/v1/Thing/a/..%2F..%2Fone",
        "/run/..%2F..%2Fetc",
        f"/run/{'f' * 16}",
        f"/run/{'f' * 16}?of=example.com/v1/Thing/a/one",
        f"/run/{'f' * 16}?of=example.com/v1/Thing/../one",
        f"/run/{'f' * 16}?of=//////",
        "/compare",
        f"/compare?one={IDENT}&other=x",
    ],
)
async def test_what_is_not_there_is_not_found(local: Stage, path: str) -> None:
    ran(local, local.add("one"))
    assert (await local.get(path, cookie=await cookie(local))).status == 404


@pytest.mark.parametrize("path", ["/cr/example.com/v1/Thing/a/one", f"/run/{IDENT}", f"/compare?one={IDENT}&other={IDENT}"])
async def test_what_one_may_not_get_is_as_if_it_were_not_there(stage: Stage, path: str) -> None:
    stage.cluster.rights = {("bob", "list", "*"), ("bob", "get", "b"), ("ann", "get", "a")}
    ran(stage, stage.add("one", "a"))
    assert (await stage.get(path, token="token-of-ann")).status == 200
    answer = await stage.get(path, token="token-of-bob")
    assert answer.status == 404
    assert "There is nothing of this name that you may see" in answer.text


async def test_dependents_elsewhere_are_left_out_where_one_may_not_see_such_crs(stage: Stage) -> None:
    stage.cluster.rights = {("ann", "get", "a")}
    one = stage.add("one", "a")
    metadata = {"name": "elsewhere", "namespace": "b", "uid": "d"}
    stage.dependents.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
    ran(stage, one)
    text = text_of((await stage.get("/cr/example.com/v1/Thing/a/one", token="token-of-ann")).text)
    assert "elsewhere" not in text
    assert "1 more where you may not see this kind" in text
    stage.cluster.rights.add(("ann", "get", "b"))
    # Reviews are kept for a while.
    stage.cluster.tokens["token-of-zoe"] = "zoe"
    stage.cluster.rights |= {("zoe", "get", "a"), ("zoe", "get", "b")}
    assert "elsewhere" in (await stage.get("/cr/example.com/v1/Thing/a/one", token="token-of-zoe")).text


async def test_a_dependent_that_is_a_cr_has_a_link_to_its_page(stage: Stage) -> None:
    stage.cluster.rights = {("ann", "get", "a")}
    one = stage.add("one", "a")
    for name in ("two", "other"):
        metadata = {"name": name, "namespace": "a", "uid": f"uid-{name}", "ownerReferences": [{"uid": "uid-one"}]}
        stage.dependents.append({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": metadata})
    # The other one is not, as a shard's would not be.
    stage.add("two", "a")
    answer = await stage.get(f"/cr/example.com/v1/Thing/a/{one.key.name}", token="token-of-ann")
    assert re.findall(r'<a href="(/cr/[^"]+)">', answer.text) == ["/cr/example.com/v1/Thing/a/two"]


async def test_links_that_cannot_be_asked_about_are_left_out_and_each_namespace_is_asked_for_once(stage: Stage) -> None:
    asked: Counter[str] = Counter()

    async def may(verb: str, watch: Watch, namespace: str) -> bool:
        asked[namespace] += 1
        if namespace == "b":
            raise Unreachable("no answer")
        return True

    for name, namespace in (("one", "a"), ("two", "b"), ("three", "b"), ("four", "a")):
        stage.add(name, namespace)
    assert stage.dashboard._state
    links = await pages._links(stage.dashboard._state, MagicMock(spec=Caller, may=may), list(stage.cluster.crs.values()))
    assert links == {f"uid-{name}": f"/cr/example.com/v1/Thing/a/{name}" for name in ("one", "four")}
    assert asked == {"a": 1, "b": 1}


@pytest.mark.parametrize("place", ["b", ""], ids=["namespace", "cluster"])
async def test_a_cause_elsewhere_is_left_out_where_one_may_not_see_such_crs(stage: Stage, place: str) -> None:
    stage.cluster.tokens["token-of-zoe"] = "zoe"
    stage.cluster.rights = {("ann", "get", "a"), ("ann", "list", "a")}
    stage.cluster.rights |= {("zoe", verb, where) for verb in ("get", "list") for where in ("a", "b", "*")}
    one = stage.add("one", "a")
    stage.handlers._put(one, Priority.DEPENDENT, "Secret veiled changed: data.a", namespace=place)
    record = ran(stage, one, cause="Secret veiled changed: data.a")
    record.cause_namespace = place
    for path in ("/", "/cr/example.com/v1/Thing/a/one", f"/run/{IDENT}", f"/compare?one={IDENT}&other={IDENT}"):
        text = text_of((await stage.get(path, token="token-of-ann")).text)
        assert ("veiled" in text, "an object where you may not see this kind" in text) == (False, True), path
        assert "veiled" in text_of((await stage.get(path, token="token-of-zoe")).text), path


async def test_a_run_has_its_tasks_with_results_items_diffs_and_requests(local: Stage, tmp_path: Path) -> None:
    events = [
        event(1, "playbook_on_task_start", "first"),
        event(2, "runner_item_on_ok", "first", res={"item": NASTY, "_ansible_item_label": NASTY, "changed": True}),
        event(3, "runner_on_ok", "first", res={"changed": True, "diff": {"before": {"a": 1}, "after": {"a": 2}}}),
        event(4, "playbook_on_task_start", "second"),
        event(5, "runner_on_failed", "second", res={"msg": NASTY, "stdout": "said", "warnings": ["mind the gap"]}),
    ]
    artifacts = write(tmp_path / "artifacts", *events)
    record = ran(local, local.add("one"), artifacts=artifacts, events=events, outcome=Outcome(failures=1, messages=(NASTY,)))
    assert record.run
    record.run.add_request(ApiRequest("GET", f"/api/v1/{NASTY}", 200, True, 0, 0.01))
    answer = await page(local, f"/run/{IDENT}")
    text = text_of(answer)
    assert '- "a": 1' in re.sub(r" +", " ", text)
    assert '+ "a": 2' in re.sub(r" +", " ", text)
    assert "Warning: mind the gap" in text
    assert "said" in text
    assert "1 read, 1 of them answered from the operator's store" in text
    assert answer.count(SHOWN) >= 4
    assert "<script>alert" not in answer
    assert 'id="task-2" open' in answer


async def test_a_run_without_artifacts_says_so_and_has_what_its_record_has(local: Stage, tmp_path: Path) -> None:
    events = [event(1, "playbook_on_task_start", "first"), event(2, "runner_on_failed", "first", res={"msg": "no luck"})]
    ran(local, local.add("one"), events=events)
    text = text_of(await page(local, f"/run/{IDENT}"))
    assert "Results of tasks are not kept" in text
    assert "no luck" in text
    ran(local, local.add("one"), ident="a" * 16, events=events, artifacts=tmp_path / "away")
    text = text_of(await page(local, f"/run/{'a' * 16}"))
    assert "not there any more" in text
    assert "no luck" in text


async def test_the_task_that_failed_is_named(local: Stage) -> None:
    tasks = [event(n, "playbook_on_task_start", f"task {n}") for n in (1, 3, 5)]
    ends = [event(n, "runner_on_failed", f"task {n - 1}", res={"msg": "no luck"}) for n in (2, 4)]
    events = [tasks[0], ends[0], tasks[1], ends[1], tasks[2], event(6, "runner_on_ok", "task 5")]
    request = local.add("one")
    outcome = Outcome(failures=1, messages=["no luck"])
    record = ran(local, request, events=events, outcome=outcome, status=ReconcileStatus.FAILED)
    record.message = "no luck"
    text = text_of(await page(local, "/cr/example.com/v1/Thing/a/one"))
    assert "Why the last one failed: task “task 3”" in text
    assert "in task “task 3”: no luck" in text
    answer = await page(local, f"/run/{IDENT}")
    assert "Failed in task task 3 , /x/main.yml:1" in text_of(answer)
    assert 'href="#task-2"' in answer


async def test_facts_of_the_machine_do_not_make_runs_differ(local: Stage, tmp_path: Path) -> None:
    for ident, folder in ((IDENT, "a"), ("b" * 16, "b")):
        events = [
            event(1, "playbook_on_task_start", "facts", task_action="gather_facts"),
            event(2, "runner_on_ok", "facts", task_action="gather_facts", res={"ansible_facts": {"time": ident}}),
        ]
        ran(local, local.add("one"), ident=ident, artifacts=write(tmp_path / folder, *events), events=events)
    text = text_of(await page(local, f"/compare?one={IDENT}&other={'b' * 16}"))
    assert "Tasks 0 of 1 differ" in text


async def test_a_run_of_an_earlier_process(local: Stage) -> None:
    local.add("one")
    events = [event(1, "playbook_on_task_start", "first"), event(2, "runner_on_ok", "first", res={"msg": "hello"})]
    folder = local.runs.folders.root / "example.com/v1/Thing/a/one/artifacts"
    write(folder / IDENT, *events)
    (folder / "latest").symlink_to(IDENT)
    answer = await page(local, "/cr/example.com/v1/Thing/a/one")
    assert "Runs of an earlier process" in answer
    (link,) = re.findall(r'href="(/run/[^"]+)"', answer)
    answer = await page(local, link)
    assert "hello" in answer
    assert "made by an earlier process" in answer
    assert "data-live" not in answer


async def test_runs_of_an_earlier_process_are_compared(local: Stage, tmp_path: Path) -> None:
    folder = local.runs.folders.root / "example.com/v1/Thing/a/one/artifacts"
    for ident, message in (("c" * 16, "first words"), ("d" * 16, "second words")):
        events = [event(1, "playbook_on_task_start", "first"), event(2, "runner_on_ok", "first", res={"msg": message})]
        write(folder / ident, *events)
    ran(local, local.add("one"), ident="a" * 16, events=events, artifacts=write(tmp_path / "a", *events))
    answer = await page(local, "/cr/example.com/v1/Thing/a/one")
    chosen = dict(re.findall(r'name="(one|other)" value="([^"]+)" checked', answer))
    assert chosen["other"] == "a" * 16
    values = sorted(re.findall(r'name="one" value="([^"]+)"', answer))
    assert values == ["a" * 16, *(f"{character * 16}/example.com/v1/Thing/a/one" for character in "cd")]
    for one, other, words in ((values[1], values[0], "second"), (values[1], values[2], "second")):
        answer = await page(local, f"/compare?one={one}&other={other}")
        text = text_of(answer)
        assert "1 of 1 differ" in text
        assert "-first words" in text
        assert f"+{words} words" in text
        assert "running" not in text
        # Why it was made, and what it asked for.
        assert "not known" in text
        assert f'href="/run/{"c" * 16}?of=example.com/v1/Thing/a/one"' in answer
    for wrong in ("c" * 16, f"{'c' * 16}/example.com/v1/Thing/b/one", f"{'c' * 16}/x", values[1].replace("c", "e", 16)):
        assert (await local.get(f"/compare?one={wrong}&other={'a' * 16}", cookie=await cookie(local))).status == 404


async def test_who_may_not_see_a_cr_compares_none_of_its_earlier_runs(stage: Stage) -> None:
    stage.cluster.rights = {("ann", "get", "a"), ("bob", "get", "a"), ("bob", "get", "b")}
    ran(stage, stage.add("one", "a"))
    stage.add("two", "b")
    write(stage.runs.folders.root / "example.com/v1/Thing/b/two/artifacts" / ("c" * 16), event(1, "playbook_on_start", ""))
    compare = f"/compare?one={'c' * 16}/example.com/v1/Thing/b/two&other={IDENT}"
    for path in (compare, f"/live?path={quote(compare, safe='')}"):
        for name, status in (("ann", 404), ("bob", 200)):
            # A stream does not end.
            headers = {"Authorization": f"Bearer token-of-{name}"}
            url = URL(f"http://{stage.address}{path}", encoded=True)
            async with stage.session.get(url, headers=headers) as answer:
                assert (answer.status, name) == (status, name), path


async def test_two_runs_side_by_side(local: Stage, tmp_path: Path) -> None:
    for ident, message in (("a" * 16, "old words"), ("b" * 16, NASTY)):
        events = [event(1, "playbook_on_task_start", "first"), event(2, "runner_on_ok", "first", res={"msg": message})]
        ran(local, local.add("one"), ident=ident, events=events, artifacts=write(tmp_path / ident, *events))
    answer = await page(local, f"/compare?one={'a' * 16}&other={'b' * 16}")
    text = text_of(answer)
    assert "1 of 1 differ" in text
    assert "-old words" in text
    assert "<script>alert" not in answer


async def test_no_page_is_made_in_the_event_loop(local: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[threading.Thread] = []
    page_of = pages.page

    def noting(*given: Any, **values: Any) -> Any:
        made.append(threading.current_thread())
        return page_of(*given, **values)

    monkeypatch.setattr(pages, "page", noting)
    ran(local, local.add("one"))
    for path in ("/", "/cr/example.com/v1/Thing/a/one", f"/run/{IDENT}", f"/compare?one={IDENT}&other={IDENT}"):
        await page(local, path)
    assert len(made) == 4
    assert threading.main_thread() not in made


async def test_a_huge_run_is_cut_into_pages(local: Stage, tmp_path: Path) -> None:
    events = []
    for number in range(500):
        events += [
            event(2 * number + 1, "playbook_on_task_start", f"task {number}"),
            event(2 * number + 2, "runner_on_ok", f"task {number}", res={"msg": "x" * 30_000}),
        ]
    artifacts = write(tmp_path / "artifacts", *events)
    ran(local, local.add("one"), events=events, artifacts=artifacts)
    answer = await page(local, f"/run/{IDENT}?page=3")
    assert "Page 3 of 5" in answer
    assert "task 250" in answer
    assert "task 100<" not in answer
    assert len(answer) < 3_000_000
    assert "more than this page has room for" in answer


async def test_a_content_without_a_path_is_shown(local: Stage) -> None:
    """A dry run that was asked for, of a watch that has no role of its own."""
    watch = replace(local.add("one").watch, content=Content())
    record = ReconcileRecord(request=Request(watch, local.add("one").key), priority=Priority.CHANGE, waited=0)
    record.run = RunRecord(ident=IDENT, content=Path(), artifacts=None, is_dry_run=True, plan=f"+ create {NASTY}")
    record.run.end(Outcome())
    local.history._runs[IDENT] = record
    answer = await page(local, f"/run/{IDENT}")
    assert SHOWN in answer
    assert "nothing was written" in answer


async def cookie(stage: Stage) -> str:
    """The cookie of a browser that has come with dev's key."""
    from tests.dashboard.stage import KEY

    (made,) = (await stage.get(f"/?key={KEY}")).cookies.values()
    return made.partition(";")[0]


async def page(stage: Stage, path: str) -> str:
    """A page that is there."""
    answer = await stage.get(path, cookie=await cookie(stage))
    assert answer.status == 200, answer.text
    return answer.text
