"""A reconciler whose API server and executor do what a test says. With real ones: tests/behaviour."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import pytest

from runner.config.settings import Settings
from runner.config.watches import Finalizer, Watch
from runner.control import Priority, Request, Result, Retry
from runner.control.failing import Failing
from runner.control.handlers import Handlers
from runner.control.history import History
from runner.control.reconciler import Reconciler
from runner.control.reconciliation import Phases, Reconciliation
from runner.control.records import ReconcileRecord
from runner.control.run import Runs
from runner.control.status import StatusWriter
from runner.executor.jobs import Execute, Job, JobEvent
from runner.executor.run_folder import RunFolders
from runner.kube.client import ApiClient, Conflict, Invalid, KubeError, NotFound, Refused, Unreachable
from runner.kube.discovery import Discovery, Resource
from runner.proxy.sessions import Sessions
from runner.resource.metadata import Owner
from tests.control.test_workqueue import SOON, watch
from tests.control.test_workqueue import request as named
from tests.executor.test_jobs import stats

PLAIN = watch("Thing")
GUARDED = replace(PLAIN, finalizer=Finalizer(name="example.com/clean"))
GONE = NotFound(404, 'things.example.com "a" not found')
RESOURCE = Resource(gvk=PLAIN.gvk, plural="things", namespaced=True, verbs=frozenset(), subresources=frozenset({"status"}))
FAILURES = [Unreachable("away"), KubeError("429"), Refused(403, "no right")]
NAMES = ["away", "busy", "refused"]


class Server:
    """Holds one CR, as an API server would, and answers what a test says before that."""

    def __init__(self) -> None:
        self.obj: dict[str, Any] | None = cr()
        # By method, what is raised or done at the next requests; None: nothing.
        self.next: dict[str, list[Exception | Callable[[], None] | None]] = {}
        # Raises what the schema has against a status.
        self.schema: Callable[[Mapping[str, Any]], None] = lambda status: None
        self.writes: list[str] = []
        self.refused = 0
        self.events: list[dict[str, Any]] = []

    async def get(self, path: str, params: object = None) -> dict[str, Any]:
        self._begin("get")
        return json.loads(json.dumps(self._there()))  # type: ignore[no-any-return]

    async def put(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        assert path.endswith("/status")
        self._begin("put")
        self._compare(body["metadata"])
        try:
            self.schema(body["status"])
        except Invalid:
            self.refused += 1
            raise
        return self._written("status", status=body["status"])

    async def patch(self, path: str, body: Mapping[str, Any], params: object = None) -> dict[str, Any]:
        if "/events/" in path:
            return {}
        self._begin("patch")
        self._compare(body["metadata"])
        metadata = {**self._there()["metadata"], "finalizers": body["metadata"]["finalizers"]}
        return self._written("finalizers", metadata=metadata)

    async def post(self, path: str, body: Mapping[str, Any], params: object = None) -> dict[str, Any]:
        assert path.endswith("/events")
        self.events.append(dict(body))
        return dict(body)

    def touch(self, **fields: Any) -> None:
        """Somebody else writes the CR."""
        there = self._there()
        version = str(int(there["metadata"]["resourceVersion"]) + 1)
        self.obj = {**there, **fields}
        self.obj["metadata"] = {**self.obj["metadata"], "resourceVersion": version}

    def replace(self) -> None:
        """Somebody deletes the CR and makes another of its name."""
        self.obj = cr(uid="2", version=50, spec={"size": 5})

    def condition(self, kind: str) -> dict[str, Any]:
        return next((item for item in self._there().get("status", {}).get("conditions", ()) if item["type"] == kind), {})

    def _begin(self, method: str) -> None:
        for what in self.next.get(method, [])[:1]:
            self.next[method].pop(0)
            if isinstance(what, Exception):
                raise what
            if what is not None:
                what()

    def _there(self) -> dict[str, Any]:
        if self.obj is None:
            raise GONE
        return self.obj

    def _compare(self, given: Mapping[str, Any]) -> None:
        there = self._there()["metadata"]
        if given["uid"] != there["uid"] or given["resourceVersion"] != there["resourceVersion"]:
            raise Conflict(409, "the object has been modified")

    def _written(self, what: str, **fields: Any) -> dict[str, Any]:
        self.writes.append(what)
        self.touch(**fields)
        return json.loads(json.dumps(self._there()))  # type: ignore[no-any-return]


def cr(*, uid: str = "1", version: int = 1, generation: int = 1, **fields: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": "a", "namespace": "default", "uid": uid}
    metadata |= {"resourceVersion": str(version), "generation": generation}
    return {"apiVersion": "example.com/v1", "kind": "Thing", "metadata": metadata, "spec": {}, **fields}


class Known:
    """Discovery, of one kind."""

    def __init__(self) -> None:
        self.resource: Resource | None = RESOURCE

    async def by_kind(self, gvk: object) -> Resource | None:
        return self.resource

    def forget(self, gvk: object) -> None:
        pass


class RecordingHandlers(Handlers):
    def __init__(self, of: Watch) -> None:
        super().__init__([of], lambda *_: None)
        self.forgotten: list[str | None] = []
        # Of the next reconciles, the last one first.
        self.causes: list[str] = []

    def forget(self, request: Request, uid: str | None = None) -> None:
        self.forgotten.append(uid)
        super().forget(request, uid)

    def pop_cause(self, request: Request) -> str:
        return self.causes.pop() if self.causes else ""


class Stage:
    """A reconciler of one CR, with the server and the executor that a test has it meet."""

    def __init__(self, folders: RunFolders, of: Watch = PLAIN) -> None:
        self.server, self.known, self.handlers = Server(), Known(), RecordingHandlers(of)
        self.request = named("a", of)
        self.jobs: list[Job] = []
        self.told: list[JobEvent] = [stats(ok=1)]
        # What happens during a run.
        self.during: Callable[[], None] = lambda: None
        self.folders = folders
        self.history = History(is_kept=True)
        self.having()

    def having(self, *, execute: Execute | None = None, settings: Settings | None = None) -> None:
        """A new reconciler, as another process has it."""
        client = cast(ApiClient, self.server)
        self.status = StatusWriter(client)
        self.runs = Runs(
            settings=settings or Settings(),
            execute=execute or self.execute,
            folders=self.folders,
            sessions=Sessions(),
            proxy_port=1,
            status=self.status,
            own_writes=self.handlers.own_writes,
            on_dependent=lambda *_: None,
            history=self.history,
        )
        discovery = cast(Discovery, self.known)
        self.failing = Failing([self.request.watch])
        self.reconciler = Reconciler(
            client,
            discovery,
            handlers=self.handlers,
            runs=self.runs,
            status=self.status,
            failing=self.failing,
            history=self.history,
        )

    async def execute(self, job: Job) -> AsyncGenerator[JobEvent, None]:
        self.jobs.append(job)
        self.during()
        for told in self.told:
            yield told

    async def reconcile(self) -> Result | str:
        """The result, or why it is to be tried again."""
        async with asyncio.timeout(SOON):
            try:
                return await self.reconciler.reconcile(self.request)
            except Retry as retry:
                return str(retry)

    @property
    def reconciliation(self) -> Reconciliation:
        of = self.request.watch
        record = ReconcileRecord(request=self.request, priority=Priority.CHANGE, waited=0.0)
        return Reconciliation(
            request=self.request,
            watch=of,
            resource=RESOURCE,
            owner=Owner(of.gvk, self.request.key, "1"),
            record=record,
            phases=Phases(record),
        )

    @property
    def cr(self) -> dict[str, Any]:
        assert self.server.obj is not None
        return self.server.obj


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
