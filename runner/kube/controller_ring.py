"""The ControllerRing of a shard: which kinds its sharder labels, as the runner needs it for dependents.

Without the ring, or the right to read it, everything works and costs more: each shard watches all kinds whole.

Next on the way: `runner.kube.informer`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Iterator

from runner.kube.backoff import Backoff
from runner.kube.client import ApiClient, KubeError, NotFound, Refused
from runner.kube.discovery import Discovery, Resource, group_version_path
from runner.logs import Once
from runner.resource.metadata import GroupVersionKind, Object
from runner.resource.sharding import CONTROLLER_RING

logger = logging.getLogger(__name__)

# A group, and the plural of a kind.
GroupResource = tuple[str, str]

# Seconds between two looks.
_LOOK_AGAIN = 60.0
# Seconds before the second look at the start, doubled for each further one; how many there are.
_FIRST_PAUSE, _TRIES = 0.2, 6


class ControllerRing:
    """What a ring lists, as last read. `kinds`: those of the watches."""

    def __init__(self, client: ApiClient, discovery: Discovery, name: str, *, kinds: Collection[GroupVersionKind]) -> None:
        self._client = client
        self._discovery = discovery
        self._name = name
        self._kinds = kinds
        self._controlled: frozenset[GroupResource] = frozenset()
        self._trouble, self._missing = Once(limit=1), Once()

    def controls(self, resource: Resource) -> bool:
        """True if the sharder labels objects of this kind as it does their controllers."""
        return (resource.gvk.group, resource.plural) in self._controlled

    async def first_look(self) -> None:
        """Read the ring, again for some seconds if there is no answer: what is controlled should be known first."""
        backoff = Backoff(_FIRST_PAUSE)
        for _ in range(_TRIES):
            if await self.look():
                return
            await backoff.pause()

    async def look(self) -> bool:
        """Read the ring; False if there was no answer.

        A problem is logged once. What was known then still counts, unless the ring is gone.
        """
        path = f"{group_version_path(CONTROLLER_RING.api_version)}/controllerrings/{self._name}"
        try:
            ring = await self._client.get(path)
        except NotFound:
            self._controlled = frozenset()
            self._log(logging.WARNING, "there is no such ring, and without it no CR is assigned to a shard", _INSTALL)
        except Refused as error:
            self._log(logging.WARNING, str(error), _GRANT)
        except KubeError as error:
            self._log(logging.INFO, str(error), "")
            return False
        else:
            self._trouble.reset()
            main, self._controlled = listed(ring)
            with contextlib.suppress(KubeError):
                await self._warn_of_kinds_without_shards(main)
        return True

    async def follow(self, changed: Callable[[], None]) -> None:
        """Read the ring now and then, until cancelled; `changed` is called when it lists other kinds than before."""
        while True:
            await asyncio.sleep(_LOOK_AGAIN)
            before = self._controlled
            await self.look()
            if self._controlled != before:
                changed()

    async def _warn_of_kinds_without_shards(self, main: Collection[GroupResource]) -> None:
        for gvk in self._kinds:
            resource = await self._discovery.by_kind(gvk)
            if resource and (gvk.group, resource.plural) not in main and self._missing.is_new(gvk):
                fields = {"ring": self._name, "kind": gvk.kind, "remedy": f"list {resource.plural} in the ring's resources"}
                logger.warning("CRs of a kind that the ControllerRing does not list are given to no shard", extra=fields)

    def _log(self, level: int, reason: str, remedy: str) -> None:
        if self._trouble.is_new(reason):
            fields = {"ring": self._name, "reason": reason[:1000], **({"remedy": remedy} if remedy else {})}
            logger.log(level, "The ControllerRing could not be read", extra=fields)


_INSTALL = "create the ControllerRing, or name another with --controller-ring"
_GRANT = f"let the ServiceAccount get controllerrings.{CONTROLLER_RING.group}; until then each shard watches all dependents"


def listed(ring: Object) -> tuple[frozenset[GroupResource], frozenset[GroupResource]]:
    """The main kinds of a ring, and the kinds that these control and that are none themselves."""
    spec = ring.get("spec")
    entries = list(_entries(spec.get("resources") if isinstance(spec, dict) else None))
    main = frozenset(map(_group_resource, entries))
    controlled = (_group_resource(each) for entry in entries for each in _entries(entry.get("controlledResources")))
    return main, frozenset(controlled) - main


def _entries(value: object) -> Iterator[Object]:
    """The entries of a list that name a resource, whatever the server may have sent."""
    for entry in value if isinstance(value, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("resource"), str) and isinstance(entry.get("group") or "", str):
            yield entry


def _group_resource(entry: Object) -> GroupResource:
    return entry.get("group") or "", entry["resource"]
