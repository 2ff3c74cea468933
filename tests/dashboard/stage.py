"""A dashboard whose API server and executor are as a test says. With real ones: tests/behaviour/test_dashboard.py."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self
from unittest.mock import AsyncMock, MagicMock

import aiohttp
from aiohttp import web
from yarl import URL

from runner.config.settings import Address, Settings
from runner.control import Priority, Request
from runner.control.handlers import Handlers
from runner.control.history import History
from runner.control.run import Runs
from runner.control.status import StatusWriter
from runner.control.workqueue import WorkQueue
from runner.dashboard.leader import LeaderEndpoint
from runner.dashboard.logins import KeyLogin, Logins, TokenLogins
from runner.dashboard.server import Dashboard
from runner.executor.jobs import Job, JobEvent
from runner.executor.run_folder import RunFolders
from runner.kube.authorization import Access
from runner.kube.client import ApiClient
from runner.kube.discovery import Discovery
from runner.kube.informer import Informers
from runner.proxy.sessions import Sessions
from runner.resource.metadata import ObjectKey
from runner.serving.certificate import ServingCertificate
from tests.control.test_workqueue import watch
from tests.executor.test_jobs import stats
from tests.kube.test_client import served

THING = watch("Thing")
KEY = "the-key-of-dev"
TOKENS = {"token-of-ann": "ann", "token-of-bob": "bob"}


@dataclass(slots=True)
class Answer:
    status: int
    text: str
    headers: Mapping[str, str]
    cookies: Mapping[str, str]


class Cluster:
    """An API server that serves Things and reviews."""

    def __init__(self) -> None:
        self.tokens = dict(TOKENS)
        # (user, verb, namespace; `*` for all) of Things.
        self.rights: set[tuple[str, str, str]] = set()
        self.crs: dict[ObjectKey, dict[str, Any]] = {}
        self.asked: Counter[str] = Counter()
        self.reviews: list[dict[str, Any]] = []
        self.is_broken = False
        # Awaited before each SubjectAccessReview is answered.
        self.before_review: Callable[[], Any] | None = None

    async def answer(self, request: web.Request) -> web.Response:
        if self.is_broken:
            return web.json_response({"message": "no right"}, status=403)
        match request.path.split("/")[1:]:
            case ["apis", "example.com", "v1"]:
                resource = {"name": "things", "kind": "Thing", "namespaced": True, "verbs": ["get", "list", "watch"]}
                return web.json_response({"resources": [resource]})
            case ["apis", "example.com", "v1", "namespaces", namespace, "things", name]:
                obj = self.crs.get(ObjectKey(namespace, name))
                return web.json_response(obj) if obj else web.json_response({"message": "not found"}, status=404)
            case [*_, "tokenreviews" | "subjectaccessreviews" as what]:
                self.asked[what] += 1
                return await self._review(await request.json())
        return web.json_response({"message": f"{request.path} not found"}, status=404)

    async def _review(self, body: dict[str, Any]) -> web.Response:
        spec = body["spec"]
        if body["kind"] == "TokenReview":
            name = self.tokens.get(spec["token"])
            status = {"authenticated": bool(name), "user": {"username": name, "groups": ["g"]}}
            return web.json_response({**body, "status": status}, status=201)
        self.reviews.append(spec)
        if self.before_review:
            await self.before_review()
        wanted = spec["resourceAttributes"]
        assert (wanted["group"], wanted["version"], wanted["resource"]) == ("example.com", "v1", "things")
        user, verb = spec["user"], wanted["verb"]
        places = {(user, verb, "*"), (user, verb, wanted["namespace"] or "*")}
        return web.json_response({**body, "status": {"allowed": bool(places & self.rights)}}, status=201)


@dataclass(slots=True)
class Stage:
    """A dashboard that is served, and the parts of the operator that it shows."""

    cluster: Cluster
    dashboard: Dashboard
    handlers: Handlers
    history: History
    queue: WorkQueue
    runs: Runs
    client: ApiClient
    discovery: Discovery
    address: Address
    session: aiohttp.ClientSession
    jobs: list[Job] = field(default_factory=list)
    # What the informers have of any CR's.
    dependents: list[dict[str, Any]] = field(default_factory=list)
    # The events of each run; raises, or waits, as a test says.
    during: Callable[[Job], AsyncGenerator[JobEvent, None]] | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def serving(
        cls,
        folder: Path,
        *,
        key: str = "",
        certificate: ServingCertificate | None = None,
        leader: Callable[[], LeaderEndpoint | None] = lambda: None,
    ) -> AsyncIterator[Self]:
        cluster = Cluster()
        async with contextlib.AsyncExitStack() as stack:
            client = await stack.enter_async_context(served(cluster.answer))
            discovery = Discovery(client)
            logins: Logins = KeyLogin(key) if key else TokenLogins(Access(client), discovery)
            dashboard = Dashboard(logins, [THING], waiting=lambda: "This replica waits.", leader=leader)
            queue, history = WorkQueue(4), History(is_kept=True, notify=dashboard.note)
            stack.callback(queue.close)
            handlers = Handlers([THING], queue.add, observe=dashboard.observe)
            made: Stage

            async def execute(job: Job) -> AsyncGenerator[JobEvent, None]:
                made.jobs.append(job)
                if made.during:
                    async for event in made.during(job):
                        yield event
                yield stats(ok=1)

            runs = Runs(
                settings=Settings(),
                execute=execute,
                folders=stack.enter_context(contextlib.closing(RunFolders(folder / "runs"))),
                sessions=Sessions(),
                proxy_port=1,
                status=StatusWriter(client),
                own_writes=handlers.own_writes,
                history=history,
            )
            address = await stack.enter_async_context(dashboard.serving(Address("127.0.0.1", 0), certificate))
            # Cookies are sent as a test says: those of the cluster are for TLS only, which the client would see to.
            session = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()))
            made = cls(cluster, dashboard, handlers, history, queue, runs, client, discovery, address, session)
            yield made

    def show(self, settings: Settings | None = None) -> None:
        self.dashboard.show(
            settings=settings or Settings(),
            queue=self.queue,
            handlers=self.handlers,
            history=self.history,
            runs=self.runs,
            client=self.client,
            discovery=self.discovery,
            informers=MagicMock(spec=Informers, dependents=AsyncMock(return_value=self.dependents)),
        )

    def add(self, name: str = "one", namespace: str = "a", **fields: Any) -> Request:
        """A CR that the operator has observed."""
        metadata = {"name": name, "namespace": namespace, "uid": f"uid-{name}", "generation": 1, "resourceVersion": "1"}
        obj = {"apiVersion": "example.com/v1", "kind": "Thing", "metadata": metadata, "spec": {}, **fields}
        self.cluster.crs[ObjectKey(namespace, name)] = obj
        self.handlers.primary(THING, "ADDED", obj)
        return Request(THING, ObjectKey(namespace, name))

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.request("GET", path, **options)

    async def post(self, path: str, **options: Any) -> Answer:
        return await self.request("POST", path, **options)

    async def request(
        self,
        method: str,
        path: str,
        *,
        token: str = "",
        cookie: str = "",
        headers: Mapping[str, str] | None = None,
        **rest: Any,
    ) -> Answer:
        sent = dict(headers or {})
        if token:
            sent["Authorization"] = f"Bearer {token}"
        if cookie:
            sent["Cookie"] = cookie
        url = URL(f"http://{self.address}{path}", encoded=True)
        async with self.session.request(method, url, headers=sent, allow_redirects=False, **rest) as answer:
            cookies = {name: morsel.OutputString() for name, morsel in answer.cookies.items()}
            return Answer(answer.status, await answer.text(), answer.headers, cookies)

    async def log_in(self, token: str) -> str:
        """Log a browser in; the header of its cookie."""
        answer = await self.post("/login", data={"token": token, "path": "/"})
        assert (answer.status, answer.headers["Location"]) == (303, "/")
        (cookie,) = answer.cookies.values()
        return cookie.partition(";")[0]


def request(name: str, namespace: str = "a") -> Request:
    return replace(Request(THING, ObjectKey(namespace, name)))


def priority(stage: Stage, of: Request) -> Priority | None:
    """The priority with which a CR waits."""
    return next((p for p, line in stage.queue._waiting.get(of.watch, {}).items() if of in line), None)
