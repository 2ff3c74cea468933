import base64
import json

import pytest

from runner.proxy.sessions import Session, Sessions, Token, kubeconfig
from runner.resource.metadata import GroupVersionKind, ObjectKey, Owner

SESSION = Session(
    owner=Owner(GroupVersionKind("example.com", "v1", "Thing"), ObjectKey("default", "one"), "uid"),
    inject_owner=True,
    on_dependent=lambda _: None,
)


def test_a_token_is_good_while_its_session_is_open() -> None:
    sessions = Sessions()
    with sessions.opened(SESSION) as token:
        basic = base64.b64encode(f"{token}:unused".encode()).decode()
        assert sessions.by_authorization(f"Bearer {token}") is SESSION
        assert sessions.by_authorization(f"Basic {basic}") is SESSION
    assert sessions.by_authorization(f"Bearer {token}") is None
    assert sessions.by_authorization(f"Basic {basic}") is None


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Bearer x", "Basic ???", "Basic /w==", "Digest x"])
def test_nothing_else_is(header: str | None) -> None:
    sessions = Sessions()
    with sessions.opened(SESSION):
        assert sessions.by_authorization(header) is None


def test_the_kubeconfig_serves_gos_clients_and_pythons() -> None:
    config = json.loads(kubeconfig(Token("tok"), port=8001, namespace="default"))
    assert config["clusters"][0]["cluster"]["server"] == "http://tok@localhost:8001"
    assert config["users"][0]["user"] == {"username": "tok", "password": "unused"}
    assert config["contexts"][0]["context"]["namespace"] == "default"
    assert "namespace" not in json.loads(kubeconfig(Token("tok"), port=1, namespace=""))["contexts"][0]["context"]
