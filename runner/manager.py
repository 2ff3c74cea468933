"""The composition root: builds each part once, runs them together, and takes them down in order.

Up: folders → client → proxy → health and metrics → workers → kopf. Down, on SIGTERM or SIGINT: no new turns, the runs
that are on get their time, then they are ended and their CRs say so.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

import runner
from runner.control import Request
from runner.control.controller import Controller
from runner.control.handlers import Handlers
from runner.control.reconciler import Reconciler, Surroundings
from runner.control.workqueue import WorkQueue
from runner.executor import subprocess
from runner.executor.artifacts import ArtifactsError, RunFolders
from runner.executor.jobs import Execute
from runner.kube.client import ApiClient
from runner.kube.discovery import Discovery
from runner.kube.informer import Informers
from runner.kube.primaries import watch_primaries
from runner.proxy.server import ProxyServer
from runner.proxy.sessions import Sessions
from runner.resource.metadata import ObjectKey
from runner.serving import serving_health, serving_metrics
from runner.settings import ConfigurationError, Settings
from runner.watches import Watch

logger = logging.getLogger(__name__)

EXECUTORS: dict[str, Execute] = {"subprocess": subprocess.execute}


async def run(settings: Settings, watches: Sequence[Watch]) -> None:
    """Run the operator until SIGTERM or SIGINT. Raises ConfigurationError for what the user can mend."""
    async with AsyncExitStack() as stack:
        try:
            folders = stack.enter_context(contextlib.closing(RunFolders(settings.runs_dir)))
        except ArtifactsError as error:
            raise ConfigurationError(str(error)) from error
        client = await ApiClient.connect(os.environ)
        stack.push_async_callback(client.close)
        sessions, discovery = Sessions(), Discovery(client)
        proxy = ProxyServer(
            client,
            discovery,
            sessions,
            # There are none yet; nor is there a run that could ask.
            covering=lambda *what: informers.covering(*what),
            port=settings.proxy_port,
        )
        try:
            await stack.enter_async_context(proxy)
        except OSError as error:
            raise ConfigurationError(
                f"--proxy-port {settings.proxy_port} cannot be listened on: {error.strerror}; choose another, or 0"
            ) from error
        watching, stop = asyncio.Event(), asyncio.Event()

        def started() -> None:
            # kopf has just set its own.
            _on_signals(stop.set)
            watching.set()

        if settings.health_address:
            address = await stack.enter_async_context(serving_health(settings.health_address, is_ready=watching.is_set))
            logger.info("Serving health probes", extra={"address": str(address)})
        if settings.metrics_address:
            address = await stack.enter_async_context(serving_metrics(settings.metrics_address))
            logger.info("Serving metrics", extra={"address": str(address)})

        queue = WorkQueue(settings.max_concurrent_runs or max(watch.max_concurrent_reconciles for watch in watches))
        handlers = Handlers(watches, queue.add)
        async with asyncio.TaskGroup() as tasks:
            informers = Informers(client, namespaces=settings.namespaces, notify=handlers.dependent, tasks=tasks)
            surroundings = Surroundings(
                client=client,
                discovery=discovery,
                sessions=sessions,
                execute=EXECUTORS[settings.executor],
                folders=folders,
                on_dependent=lambda _, resource: informers.ensure(resource),
                proxy_port=proxy.port,
                ansible_args=settings.ansible_args,
                inject_owner_ref=settings.inject_owner_ref,
            )
            reconciler = Reconciler(surroundings)
            controller = Controller(queue, reconciler.reconcile)
            tasks.create_task(_clear_up(reconciler, folders, watches))
            primaries = tasks.create_task(
                watch_primaries(
                    client,
                    watches=watches,
                    namespaces=settings.namespaces,
                    notify=handlers.primary,
                    started=started,
                )
            )
            workers = tasks.create_task(controller.run())
            await watching.wait()
            logger.info(
                "Watching",
                extra={
                    "version": runner.__version__,
                    "kinds": ", ".join(watch.gvk.kind for watch in watches),
                    "namespaces": ",".join(settings.namespaces) or "all",
                },
            )
            await stop.wait()
            logger.info("Stopping", extra={"running": queue.running, "grace": settings.shutdown_grace})
            queue.close()
            await asyncio.wait({workers}, timeout=settings.shutdown_grace)
            workers.cancel()
            await asyncio.wait({workers})
            primaries.cancel()
            informers.stop()
        logger.info("Stopped")


def _on_signals(stop: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)


async def _clear_up(reconciler: Reconciler, folders: RunFolders, watches: Sequence[Watch]) -> None:
    """The folders of CRs that went while no runner was there go too."""
    for watch in watches:
        gvk = watch.gvk
        for parts in list(folders.left_over((gvk.group, gvk.version, gvk.kind))):
            namespace, name = ("", *parts)[-2:]
            await reconciler.clear_up(Request(watch, ObjectKey(namespace, name)))
