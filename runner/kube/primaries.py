"""The watched custom resources, by kopf: embedded, with low-level event handlers only.

kopf follows CRDs that arrive late, go, or come back, and namespaces that match a pattern. Nothing is left on the CRs: its
change handlers, finalizers and peering are not used. After a disconnect it lists anew, so an event may come twice, and a
deletion may be missed: `control.handlers` tells news from echoes, and a reconcile of what is gone finds out by itself.

Next on the way: `runner.control.handlers`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import kopf

from runner.kube.client import ApiClient, in_cluster_namespace
from runner.resource.metadata import Object
from runner.watches import Watch

# What happened to a CR: ADDED, MODIFIED, DELETED, or None for one that was found by listing.
EventType = str | None
Notify = Callable[[Watch, EventType, Object], None]


class PrimariesError(Exception):
    """kopf ended by itself, which it should not."""


async def watch_primaries(
    client: ApiClient, *, watches: Sequence[Watch], namespaces: Sequence[str], notify: Notify, ready: asyncio.Event
) -> None:
    """Call `notify` for every event on a CR of the watches, until cancelled. Sets `ready` once kopf has begun to watch.

    `notify` is called in the event loop and must not block. An empty `namespaces` means all of them.
    """
    session = client.new_session()
    registry = kopf.OperatorRegistry()

    async def login(**_: Any) -> kopf.AiohttpSession:
        # One way to log in for the whole runner: this session adds fresh credentials to each request.
        return kopf.AiohttpSession(
            server=client.server, aiohttp_session=session, default_namespace=in_cluster_namespace() or None
        )

    kopf.on.login(registry=registry)(login)
    for watch in watches:
        _register(registry, watch, notify)
    tasks = await kopf.spawn_tasks(
        registry=registry,
        settings=_settings(),
        standalone=True,
        clusterwide=not namespaces,
        namespaces=tuple(namespaces),
        ready_flag=ready,
    )
    # Not kopf.run_tasks(): on its way out that one cancels every task of the loop which is younger than kopf's own.
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        task = done.pop()
        raise PrimariesError(f"kopf's {task.get_name()} ended") from (None if task.cancelled() else task.exception())
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await session.close()


def _register(registry: kopf.OperatorRegistry, watch: Watch, notify: Notify) -> None:
    async def handler(type: EventType, event: Any, **_: Any) -> None:
        notify(watch, type, event["object"])

    gvk = watch.gvk
    kopf.on.event(group=gvk.group, version=gvk.version, kind=gvk.kind, id=str(gvk), registry=registry)(handler)


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    # Otherwise kopf kills this process ten minutes after it was stopped.
    settings.process.ultimate_exiting_timeout = None
    # Between a lost connection and the next try; and how long a silent one is trusted.
    settings.watching.reconnect_backoff = 1.0
    settings.watching.connect_timeout = 10.0
    settings.watching.server_timeout = 300.0
    settings.networking.error_backoffs = (1, 1, 2, 3, 5, 5, 5, 5)
    return settings
