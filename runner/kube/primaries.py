"""Watches of the primary resources (CRs) by kopf, which is embedded with low-level event handlers only.

kopf follows CRDs that arrive late, go, or come back, and namespaces that match a pattern. Nothing is left on the CRs: its
change handlers, finalizers and peering are not used. After a disconnect it may list again, so an event may come twice, which
`control.handlers` recognises; what a list lacks was deleted meanwhile. Only kopf's public API is used; what is assumed of
its HTTP stands in `kopf_transport`.

Next on the way: `runner.kube.kopf_transport`, and `runner.control.handlers`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import kopf

from runner.config.watches import Watch
from runner.kube.backoff import Backoff
from runner.kube.client import ApiClient, KubeError, in_cluster_namespace
from runner.kube.discovery import Discovery
from runner.kube.kopf_transport import (
    FIRST_DELAY,
    LAST_DELAY,
    NAMESPACES,
    EventType,
    KopfResponse,
    KopfTransport,
    Listed,
    Notify,
)
from runner.resource import api_status
from runner.resource.metadata import GroupVersionKind

__all__ = ["EventType", "watch_primaries"]

logger = logging.getLogger(__name__)

# Seconds between two looks for kinds, and for namespaces, that kopf does not know.
_LOOK_AGAIN, _LOOK_AT_NAMESPACES = 2.0, 30.0
# Seconds: a watch without even a bookmark for so long has lost its peer.
_INACTIVE = 90.0
# Seconds that kopf gets to end, before it is cancelled again: it gives its workers two.
_CANCEL_AGAIN = 5.0
_KOPF = f"{Path(kopf.__file__).parent}/"


async def watch_primaries(
    client: ApiClient,
    *,
    watches: Sequence[Watch],
    namespaces: Sequence[str],
    notify: Notify,
    listed: Listed = lambda watch, namespace, present: None,
    started: Callable[[], None],
) -> None:
    """Call `notify` for every event on a CR of the watches, until cancelled. An empty `namespaces` means all of them.

    `notify` and `listed` are called in the event loop and must not block. `started` is called whenever kopf has been
    started: it has then set handlers for SIGTERM and SIGINT.
    """
    backoff = Backoff(FIRST_DELAY, LAST_DELAY, jitter=0)
    while True:
        begun = asyncio.get_running_loop().time()
        transport = KopfTransport(
            watches, notify, listed, server=client.server, namespaces=namespaces, begin_watch=client.watch
        )
        reason = await _run_kopf(client, watches=watches, namespaces=namespaces, transport=transport, started=started)
        # kopf gives up where it could go on; nothing is lost by starting it again, but that it lists everything again.
        if asyncio.get_running_loop().time() - begun > LAST_DELAY:
            backoff.reset()
        logger.info("Watching is started again", extra={"reason": reason})
        await backoff.pause()


async def _run_kopf(
    client: ApiClient,
    *,
    watches: Sequence[Watch],
    namespaces: Sequence[str],
    transport: KopfTransport,
    started: Callable[[], None],
) -> str:
    """Run kopf until it ends by itself, or has missed a kind; returns the reason for the log."""
    session = client.new_session(transport, response_class=KopfResponse)
    registry = kopf.OperatorRegistry()

    async def login(**_: object) -> kopf.AiohttpSession:
        # One way to log in for the whole runner: this session adds fresh credentials to each request.
        return kopf.AiohttpSession(
            server=client.server, aiohttp_session=session, default_namespace=in_cluster_namespace() or None
        )

    kopf.on.login(registry=registry)(login)
    for watch in watches:
        _register(registry, watch, transport.deliver)
    # Not kopf.run() nor run_tasks(): on its way out that cancels every task of the loop which is younger than kopf's own.
    tasks = await kopf.spawn_tasks(
        registry=registry,
        settings=_settings(),
        standalone=True,
        clusterwide=not namespaces,
        namespaces=tuple(namespaces),
    )
    started()
    missed = (
        asyncio.create_task(_missed_kind(client, transport, {watch.gvk for watch in watches}), name="missed kinds"),
        asyncio.create_task(_missed_namespace(client, transport), name="missed namespaces"),
    )
    try:
        done, _ = await asyncio.wait([*missed, *tasks], return_when=asyncio.FIRST_COMPLETED)
        task = done.pop()
        error = None if task.cancelled() else task.exception()
        if error is None and task in missed:
            return f"{task.result()} has come"
        return f"{task.get_name()}: {_reason(error) if error else 'ended'}"
    finally:
        try:
            await _cancel([*missed, *tasks])
        finally:
            await transport.close()
            await session.close()


async def _cancel(tasks: Iterable[asyncio.Task[object]]) -> None:
    """Cancel the tasks, and return when they have ended.

    kopf overlooks a cancellation that comes just when a watch is about to be begun again: the watch goes on, and what waits
    for its end waits for ever. So whatever there is of kopf is cancelled again and again.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        done, pending = await asyncio.wait(pending, timeout=_CANCEL_AGAIN)
        for task in done:
            if not task.cancelled():
                # Taken note of, or asyncio would log it.
                task.exception()
        if pending:
            logger.debug("kopf does not end, and is cancelled again", extra={"tasks": [task.get_name() for task in pending]})
            pending |= {task for task in asyncio.all_tasks() if _is_kopfs(task)}


def _is_kopfs(task: asyncio.Task[object]) -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and str(code.co_filename).startswith(_KOPF)


async def _missed_kind(client: ApiClient, transport: KopfTransport, kinds: set[GroupVersionKind]) -> GroupVersionKind:
    """Wait until one of the kinds has been served for some time without kopf knowing it.

    kopf asks which kinds there are when a CRD changes. The server may take a moment longer to serve a kind than to call
    its CRD established, and then nothing makes kopf ask again. Nor does kopf see CRDs where it has no right to.
    """
    suspects: set[GroupVersionKind] = set()
    while True:
        await asyncio.sleep(_LOOK_AGAIN)
        missed = {gvk for gvk in transport.undiscovered(kinds) if await _is_served(client, gvk)}
        if again := missed & suspects:
            return again.pop()
        suspects = missed


async def _missed_namespace(client: ApiClient, transport: KopfTransport) -> str:
    """Wait until there is a namespace that kopf does not see, because it had no right to list or to watch namespaces."""
    while True:
        await asyncio.sleep(_LOOK_AT_NAMESPACES)
        if transport.namespaces_refused:
            # Without the right to list them, kopf takes their names as they are given.
            with contextlib.suppress(KubeError):
                if missed := transport.unlisted(await client.get(NAMESPACES)):
                    return f"the namespace {missed.pop()}"


def _reason(error: BaseException) -> str:
    # kopf's errors have the server's answer as an object after its message.
    answers = [argument for argument in error.args if isinstance(argument, dict)]
    return api_status.sentence(answers[0]) if answers else str(error) or type(error).__name__


async def _is_served(client: ApiClient, gvk: GroupVersionKind) -> bool:
    try:
        resource = await Discovery(client).by_kind(gvk)
    except KubeError:
        return False
    return resource is not None and resource.is_watchable


def _register(registry: kopf.OperatorRegistry, watch: Watch, notify: Notify) -> None:
    async def handler(type: EventType, event: kopf.RawEvent, **_: object) -> None:
        notify(watch, type, event["object"])

    gvk = watch.gvk
    kopf.on.event(group=gvk.group, version=gvk.version, kind=gvk.kind, id=str(gvk), registry=registry)(handler)


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.persistence.diffbase_storage = _NoDiffBase()
    # Otherwise kopf kills this process ten minutes after it was stopped.
    settings.process.ultimate_exiting_timeout = None
    # Tries again a given number of times, and not distinguishing what for; `KopfTransport` does better.
    settings.networking.error_backoffs = ()
    # It would count the transport's waiting, too, which has a limit for each answer.
    settings.networking.request_timeout = None
    settings.networking.connect_timeout = 10
    settings.watching.reconnect_backoff = 0.5
    settings.watching.server_timeout = 300
    settings.watching.inactivity_timeout = _INACTIVE
    settings.watching.chunk_size = 250
    return settings


class _NoDiffBase(kopf.DiffBaseStorage):
    """Storage of the last state for change handlers, of which there are none; kopf would compute it for each event."""

    def build(self, **_: object) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: object) -> None:
        return None

    def store(self, **_: object) -> None:
        pass
