"""Which callers may see and do what: by reviews of the API server, or anything, with the key of `rolerunner dev`.

A CR, its reconciles and its runs are shown to who may `get` (in lists: `list`) its kind in its namespace.

Next on the way: `runner.kube.authorization`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from runner.config.watches import Watch
from runner.kube.authorization import Access, User
from runner.kube.client import KubeError
from runner.kube.discovery import Discovery

# Namespaces of a kind that are asked about at once, seconds that a page waits for all of them, and answers that are known
# already after which other tasks of the event loop run.
_AT_ONCE, _PATIENCE, _CHUNK = 32, 5.0, 50


class Caller(Protocol):
    """Whoever asks for a page."""

    @property
    def name(self) -> str: ...

    @property
    def form_token(self) -> str:
        """What forms have to bring; empty for a program, which has no forms."""

    async def may(self, verb: str, watch: Watch, namespace: str, name: str = "") -> bool:
        """True if the caller has the right to do `verb` to CRs of a watch in a namespace (empty: in all), or to one of
        them. Raises KubeError."""


@dataclass(frozen=True, slots=True)
class KeyHolder:
    """The user of `rolerunner dev`, whose operator this is."""

    form_token: str
    name: str = "the user of dev"

    async def may(self, verb: str, watch: Watch, namespace: str, name: str = "") -> bool:
        return True


@dataclass(frozen=True, slots=True)
class TokenHolder:
    """The user of a Kubernetes token."""

    user: User
    access: Access
    discovery: Discovery
    form_token: str = ""

    @property
    def name(self) -> str:
        return self.user.name

    async def may(self, verb: str, watch: Watch, namespace: str, name: str = "") -> bool:
        resource = await self.discovery.by_kind(watch.gvk)
        if resource is None:
            return False
        return await self.access.allows_resource(
            self.user,
            verb=verb,
            group=watch.gvk.group,
            version=watch.gvk.version,
            resource=resource.plural,
            namespace=namespace if resource.namespaced else "",
            name=name,
        )


@dataclass(frozen=True, slots=True)
class Scope:
    """The namespaces in which a caller may list CRs of a kind. `is_complete`: False if there was no time to ask for all."""

    everywhere: bool
    namespaces: frozenset[str] = frozenset()
    is_complete: bool = True

    def __contains__(self, namespace: object) -> bool:
        return self.everywhere or namespace in self.namespaces


async def scopes(caller: Caller, namespaces: Mapping[Watch, Collection[str]]) -> dict[Watch, Scope]:
    """The caller's scope of each watch, of which `namespaces` are those that there are CRs in. Raises KubeError."""
    found = await asyncio.gather(*(_scope(caller, watch, each) for watch, each in namespaces.items()))
    return dict(zip(namespaces, found, strict=True))


async def _scope(caller: Caller, watch: Watch, namespaces: Collection[str]) -> Scope:
    if await caller.may("list", watch, ""):
        return Scope(everywhere=True)
    waiting, allowed, failures = iter(namespaces), set[str](), 0

    async def ask() -> None:
        nonlocal failures
        for number, namespace in enumerate(filter(None, waiting)):
            # What is known already keeps the event loop as well.
            if number % _CHUNK == 0:
                await asyncio.sleep(0)
            try:
                if await caller.may("list", watch, namespace):
                    allowed.add(namespace)
            except KubeError:
                failures += 1
                return

    tasks = [asyncio.create_task(ask()) for _ in range(min(_AT_ONCE, len(namespaces)))]
    if not tasks:
        return Scope(everywhere=False)
    try:
        done, pending = await asyncio.wait(tasks, timeout=_PATIENCE)
    finally:
        for task in tasks:
            task.cancel()
    for task in done:
        task.result()
    return Scope(everywhere=False, namespaces=frozenset(allowed), is_complete=not pending and not failures)
