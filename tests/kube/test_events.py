"""Events, as the API server takes them."""

from __future__ import annotations

import re
from typing import Any

import pytest

from runner.kube import events
from runner.kube.client import ApiClient
from runner.resource.metadata import GroupVersionKind, ObjectKey, Owner

# What the API server says of names.
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


class Server(ApiClient):
    def __init__(self) -> None:
        self.posted: list[Any] = []

    async def post(self, path: str, body: Any, params: Any = None) -> dict[str, Any]:
        self.posted.append(body)
        return {}


@pytest.mark.parametrize("name", ["one", "a" * 199 + "-" + "b" * 20, "a" * 199 + "." + "b" * 20, "a" * 190 + "-" * 20 + "b"])
async def test_a_long_name_makes_a_name(name: str) -> None:
    server = Server()
    owner = Owner(GroupVersionKind("example.com", "v1", "Thing"), ObjectKey("here", name), "uid")
    await events.warn(server, owner, reason="R", note="n")
    made = server.posted[0]["metadata"]["name"]
    assert SUBDOMAIN.fullmatch(made)
    assert len(made) <= 253
