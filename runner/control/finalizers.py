"""Finalizers: whether a CR's deletion waits for a run, and the writes that add and remove the watch's finalizer.

Next on the way: `runner.control.run`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum

from runner.config.watches import Watch
from runner.control.reconciliation import Reconciliation, read, retry_on_conflict
from runner.kube.client import ApiClient, Conflict, Invalid, NotFound
from runner.resource.metadata import Object, finalizers, is_deleting


class Decision(Enum):
    """The action that a CR's deletion timestamp and finalizers call for."""

    RUN = "run"
    ADD_FINALIZER = "add the finalizer, then run"
    FINALIZE = "run the finalizer"
    IGNORE = "it is being deleted, and does not wait for this watch"


def decide(obj: Object, watch: Watch) -> Decision:
    """The decision for a CR of the watch."""
    name = watch.finalizer.name if watch.finalizer else None
    held = name is not None and name in finalizers(obj)
    if is_deleting(obj):
        return Decision.FINALIZE if held else Decision.IGNORE
    return Decision.ADD_FINALIZER if name is not None and not held else Decision.RUN


async def add_finalizer(client: ApiClient, reconciliation: Reconciliation, obj: Object) -> Object | None:
    """Add the watch's finalizer; the CR as it is then, None if it is gone. Raises KubeError and Retry."""
    name = _name(reconciliation.watch)
    return await _write(client, reconciliation, obj, lambda names: [*names, name] if name not in names else names)


async def remove_finalizer(client: ApiClient, reconciliation: Reconciliation, obj: Object) -> None:
    """Remove the watch's finalizer, by which the CR goes. Raises KubeError and Retry."""
    name = _name(reconciliation.watch)
    await _write(client, reconciliation, obj, lambda names: [item for item in names if item != name])


async def _write(
    client: ApiClient, reconciliation: Reconciliation, obj: Object, change: Callable[[list[str]], Sequence[str]]
) -> Object | None:
    # By the CR's resourceVersion.
    refusals: dict[str, Invalid] = {}

    async def patch(obj: Object) -> Object | None:
        names, version = change(finalizers(obj)), obj["metadata"]["resourceVersion"]
        if names == finalizers(obj):
            return obj
        if version in refusals:
            # Nobody has changed the CR since: the server does not accept the finalizer.
            raise refusals[version]
        metadata = {"finalizers": names, "uid": reconciliation.owner.uid, "resourceVersion": version}
        try:
            return await client.patch(reconciliation.path, {"metadata": metadata})
        except NotFound:
            return await read(client, reconciliation)
        except Invalid as error:
            # Also for another CR of this name, whose uid is not the one that was sent. It is read again, as after a
            # conflict.
            refusals[version] = error
            raise Conflict(error.status, str(error)) from error

    return await retry_on_conflict(client, reconciliation, obj, patch, what="the finalizers were")


def _name(watch: Watch) -> str:
    assert watch.finalizer is not None
    return watch.finalizer.name
