"""The client of the API server: credentials, TLS, JSON over HTTP, repetition of requests, and the errors.

The official client finds and refreshes credentials (kubeconfig with its exec plugins, or the pod's ServiceAccount). The
requests are plain aiohttp: the objects here are custom resources, which have no model classes, and the proxy passes bytes.

Next on the way: `runner.kube.discovery`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import ssl
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import aiohttp
import yaml
from aiohttp.connector import AddrInfoType, Connection
from kubernetes.aio import client as official
from kubernetes.aio import config as official_config

from runner import metrics
from runner.errors import ConfigurationError, RolerunnerError
from runner.json_codec import JsonMapping, JsonObject, encode
from runner.kube import nesting
from runner.kube.backoff import Backoff

logger = logging.getLogger(__name__)

MERGE_PATCH = "application/merge-patch+json"
# Its body may be JSON, which is YAML.
APPLY_PATCH = "application/apply-patch+yaml"
_SERVICE_ACCOUNT_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
# No request of the runner's own takes long; watches have a limit of their own.
_TIMEOUT = aiohttp.ClientTimeout(total=60, sock_connect=10)
# The server ends a watch well before; what is silent for longer than this has lost its peer.
_WATCH_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=90)
# The kernel asks a silent peer after 15 s whether it is there, every 10 s, and what is sent is acknowledged within 45 s: as
# client-go notices that a server is gone.
_SOCKET_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 45_000),
)
# How often and for how many seconds a request is repeated, and how long one pause may be that the server asks for.
_TRIES, _PATIENCE, _LONGEST_PAUSE = 5, 30.0, 10.0
_FIRST_PAUSE = 0.1
# Bytes of JSON from which parsing is left to a thread.
_LARGE = 256 * 1024

# What the official client's reader of kubeconfigs stumbles with over one that has another shape than it expects.
_MALFORMED = (TypeError, KeyError, AttributeError)

Body = JsonMapping


class _Connector(aiohttp.TCPConnector):
    """A connector that closes all of its connections when it is closed.

    A connection on which an answer was given up, as each watch's is, waits for the server's end of TLS. aiohttp forgets it
    at once, and it would outlive its event loop.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(socket_factory=_socket, **options)
        self._opened: weakref.WeakSet[asyncio.Transport] = weakref.WeakSet()

    async def connect(self, *arguments: Any, **options: Any) -> Connection:
        connection = await super().connect(*arguments, **options)
        if connection.transport is not None:
            self._opened.add(connection.transport)
        return connection

    async def close(self, *, abort_ssl: bool = False) -> None:
        try:
            await super().close(abort_ssl=abort_ssl)
        finally:
            for transport in tuple(self._opened):
                transport.abort()
        # The transports close in the next iteration of the event loop.
        await asyncio.sleep(0)


def _socket(address: AddrInfoType) -> socket.socket:
    """A socket that notices when its peer is gone, which the timeouts of requests that may be silent for long do not."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    for level, option, value in _SOCKET_OPTIONS:
        made.setsockopt(level, option, value)
    return made


class KubeError(RolerunnerError):
    """Something the cluster did not do.

    KubeError
    ├── Unreachable        no answer: try again
    │   ├── Unreadable     an answer that is no JSON object, or nests too deep to be read
    │   └── Silent         a watch that was open, and has said nothing for too long
    └── ApiError           an answer with a status of 400 or more
        ├── NotFound       404
        ├── Conflict       409
        ├── Expired        410: a resourceVersion too old to go on from
        ├── Invalid        422: the object is not as its schema says
        ├── NotReady       429 of a kind whose CRD is new, for a moment: try again
        └── Refused        401, 403: the runner's own rights do not cover it
    """


class Unreachable(KubeError):
    """The API server gave no answer. `sent`: whether the request may have reached it all the same."""

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class Unreadable(Unreachable):
    """The answer is not one of an API server."""


class Silent(Unreachable):
    """A watch without events for longer than bookmarks take: nothing may have happened, or the peer may be gone."""


class ApiError(KubeError):
    """The API server refused a request; `status` is the HTTP code, `str()` the server's own message.

    `retry_after`: the seconds after which it wants to be asked again, if it said so.
    """

    def __init__(self, status: int, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class NotFound(ApiError):
    pass


class Conflict(ApiError):
    pass


class Expired(ApiError):
    pass


class Invalid(ApiError):
    pass


class NotReady(ApiError):
    pass


class Refused(ApiError):
    pass


_BY_STATUS: Mapping[int, type[ApiError]] = {
    **{401: Refused, 403: Refused, 404: NotFound, 409: Conflict},
    **{410: Expired, 422: Invalid},
}


class ApiClient:
    """JSON requests to the API server. Every method raises KubeError, and ApiError for an answer of 400 or more.

    What may be repeated is repeated here, for a while: reads, and writes that the server would refuse the second time, if it
    has no answer or no time for them; others only if they cannot have been done.
    """

    def __init__(self, configuration: official.Configuration, *middlewares: aiohttp.ClientMiddlewareType) -> None:
        """`middlewares`: see each request of all its sessions, before it has its credentials."""
        self._configuration = configuration
        self._middlewares = middlewares
        self.server: str = configuration.host.rstrip("/")
        self.session = self.new_session()

    @classmethod
    async def connect(cls, environ: Mapping[str, str], *middlewares: aiohttp.ClientMiddlewareType) -> Self:
        """Connect by `$KUBECONFIG`, else by the pod's ServiceAccount, else by ~/.kube/config. Raises ConfigurationError."""
        configuration = official.Configuration()
        try:
            if environ.get("KUBECONFIG"):
                source = "KUBECONFIG"
                await official_config.load_kube_config(config_file=environ["KUBECONFIG"], client_configuration=configuration)
            elif _in_cluster(environ):
                source = "the pod's ServiceAccount"
                official_config.load_incluster_config(client_configuration=configuration)
            else:
                source = "~/.kube/config"
                await official_config.load_kube_config(
                    config_file=str(Path.home() / ".kube" / "config"), client_configuration=configuration
                )
            return cls(configuration, *middlewares)
        except (official_config.ConfigException, OSError, ValueError, yaml.YAMLError, *_MALFORMED) as error:
            reason = "its content is no kubeconfig" if isinstance(error, _MALFORMED) else error
            raise ConfigurationError(
                f"{source}: cannot be used to connect to a cluster ({reason}); set KUBECONFIG to a kubeconfig file, "
                "or start one with: rolerunner devcluster up"
            ) from error

    def new_session(self, *middlewares: aiohttp.ClientMiddlewareType, **options: Any) -> aiohttp.ClientSession:
        """A session with the runner's credentials for other HTTP clients, which have to close it."""
        return aiohttp.ClientSession(
            **options,
            connector=_Connector(ssl=self._ssl_context(), limit=0, keepalive_timeout=60),
            middlewares=(*middlewares, *self._middlewares, self._count, self._authorize),
            timeout=_TIMEOUT,
            headers={"User-Agent": "rolerunner"},
            auto_decompress=True,
        )

    async def close(self) -> None:
        await self.session.close()

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> JsonObject:
        return await self._request("GET", path, params=params)

    async def post(self, path: str, body: Body, params: Mapping[str, str] | None = None) -> JsonObject:
        return await self._request("POST", path, body=body, params=params)

    async def put(self, path: str, body: Body) -> JsonObject:
        return await self._request("PUT", path, body=body)

    async def patch(self, path: str, body: Body, params: Mapping[str, str] | None = None) -> JsonObject:
        """Send a JSON merge patch."""
        return await self._request("PATCH", path, body=body, params=params, content_type=MERGE_PATCH)

    async def apply(self, path: str, body: Body, *, manager: str) -> JsonObject:
        """Apply server-side: creates what does not exist. Fields that others have set otherwise become the manager's."""
        params = {"fieldManager": manager, "force": "true"}
        return await self._request("PATCH", path, body=body, params=params, content_type=APPLY_PATCH)

    async def delete(self, path: str) -> JsonObject:
        """Delete in the background, as kubectl does: what the object owns is deleted after it."""
        return await self._request("DELETE", path, params={"propagationPolicy": "Background"})

    async def watch(
        self, path: str, params: Mapping[str, str], *, opened: Callable[[], None] = lambda: None
    ) -> AsyncGenerator[JsonObject, None]:
        """Yield the watch events ({type, object}) after `params["resourceVersion"]`, until the server ends the stream.

        `opened` is called when the server has begun to answer: there may be no event for long.
        """
        query = {**params, "watch": "true", "allowWatchBookmarks": "true"}
        async with self._responding("GET", path, params=query, timeout=_WATCH_TIMEOUT) as response:
            opened()
            try:
                async for line in lines(response.content):
                    event = await parsed(line, f"a watch of {path}")
                    obj = event.get("object")
                    if not isinstance(obj, dict):
                        raise Unreadable(f"a watch of {path}: an event without an object")
                    if event.get("type") == "ERROR":
                        code = obj.get("code")
                        raise _error(code if isinstance(code, int) else 500, str(obj.get("message", "the watch failed")))
                    yield event
            except aiohttp.SocketTimeoutError as error:
                raise Silent(f"a watch of {path} has been silent") from error

    async def _request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Body | None = None,
        content_type: str = "application/json",
    ) -> JsonObject:
        data = None if body is None else encode(body)
        headers = {"Content-Type": content_type} if data is not None else {}
        repeatable = method == "GET" or content_type == APPLY_PATCH or _names_its_version(method, body)
        loop = asyncio.get_running_loop()
        deadline, backoff = loop.time() + _PATIENCE, Backoff(_FIRST_PAUSE)
        for left in reversed(range(_TRIES)):
            try:
                async with self._responding(method, path, params=params, data=data, headers=headers) as response:
                    return await parsed(await response.read(), f"{method} {path}")
            except (ApiError, Unreachable) as error:
                wanted = backoff.next()
                if isinstance(error, ApiError) and error.retry_after is not None:
                    wanted = max(wanted, min(error.retry_after, _LONGEST_PAUSE))
                if not left or not _may_be_repeated(error, repeatable) or loop.time() + wanted > deadline:
                    raise
                logger.debug("A request is repeated", extra={"request": f"{method} {path}", "reason": str(error)[:500]})
            await asyncio.sleep(wanted)
        raise AssertionError("the last try returns or raises")

    @asynccontextmanager
    async def _responding(self, method: str, path: str, **options: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with self.session.request(method, self.server + path, **options) as response:
                if response.status >= 400:
                    message, wanted = await _message(response), response.headers.get("Retry-After", "")
                    retry_after = float(wanted) if wanted.isdecimal() and len(wanted) < 10 else None
                    raise _error(response.status, message, retry_after=retry_after)
                yield response
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            sent = not isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError))
            raise Unreachable(f"{method} {path}: {error or type(error).__name__}", sent=sent) from error

    async def _count(self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        code = "<error>"
        try:
            response = await handler(request)
            code = str(response.status)
            return response
        finally:
            metrics.api_request(code=code, method=request.method, host=request.url.host_port_subcomponent or "")

    async def _authorize(self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        # Asked for each request: ServiceAccount tokens rotate, exec plugins' tokens expire, and the official client
        # keeps whatever is still good.
        token = await self._configuration.get_api_key_with_prefix("BearerToken")
        if token:
            request.headers["Authorization"] = token
        elif self._configuration.username:
            request.headers["Authorization"] = self._configuration.get_basic_auth_token() or ""
        return await handler(request)

    def _ssl_context(self) -> ssl.SSLContext:
        configuration = self._configuration
        context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
        if configuration.cert_file:
            context.load_cert_chain(configuration.cert_file, configuration.key_file)
        # Many clusters' CAs lack what Python 3.13 began to ask for; Go's clients take them as well.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if not configuration.verify_ssl:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def _in_cluster(environ: Mapping[str, str]) -> bool:
    return bool(environ.get("KUBERNETES_SERVICE_HOST")) and _SERVICE_ACCOUNT_TOKEN.exists()


class Context(NamedTuple):
    """The current context of a kubeconfig. Either may be empty."""

    name: str
    namespace: str


def current_context(environ: Mapping[str, str]) -> Context:
    """The current context of `$KUBECONFIG`, else of ~/.kube/config; Context("", "") if none can be read."""
    try:
        _, current = official_config.list_kube_config_contexts(environ.get("KUBECONFIG") or None)
        return Context(current["name"], (current.get("context") or {}).get("namespace") or "")
    except (official_config.ConfigException, OSError, ValueError, yaml.YAMLError, *_MALFORMED):
        return Context("", "")


def in_cluster_namespace() -> str:
    """The namespace of the pod that this is; empty elsewhere."""
    try:
        return _SERVICE_ACCOUNT_TOKEN.with_name("namespace").read_text().strip()
    except OSError:
        return os.environ.get("POD_NAMESPACE", "")


async def lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Yield lines of any length: aiohttp's own reader refuses those over its buffer, and an object may be 1.5 MiB."""
    rest: list[bytes] = []
    async for chunk in content.iter_any():
        *complete, tail = chunk.split(b"\n")
        for line in complete:
            whole = b"".join((*rest, line))
            rest.clear()
            if whole.strip():
                yield whole
        if tail:
            rest.append(tail)


async def parsed(content: bytes, what: str) -> JsonObject:
    """The JSON object that was answered to `what`. Raises Unreadable."""
    try:
        value = await asyncio.to_thread(nesting.parse, content) if len(content) > _LARGE else nesting.parse(content)
    except (ValueError, RecursionError) as error:
        reason = "it nests too deep" if isinstance(error, RecursionError) else error
        raise Unreadable(f"{what}: the answer cannot be read as JSON: {reason}") from error
    if not isinstance(value, dict):
        raise Unreadable(f"{what}: the answer is no JSON object but of type {type(value).__name__}")
    return value


def _names_its_version(method: str, body: Body | None) -> bool:
    """True for a write that the server refuses once anybody has written the object."""
    metadata = (body or {}).get("metadata")
    return method in ("PUT", "PATCH") and isinstance(metadata, Mapping) and bool(metadata.get("resourceVersion"))


def _may_be_repeated(error: ApiError | Unreachable, repeatable: bool) -> bool:
    if isinstance(error, Unreachable):
        return repeatable or not error.sent
    # For a kind that is not ready yet the caller waits itself. Any other 429 says: not done.
    if error.status == 429:
        return not isinstance(error, NotReady)
    return repeatable and (error.status in (502, 503, 504) or (error.status == 500 and error.retry_after is not None))


async def _message(response: aiohttp.ClientResponse) -> str:
    text = await response.text(errors="replace")
    try:
        message = str(json.loads(text).get("message") or "")
    except (ValueError, AttributeError, RecursionError):
        message = ""
    return message or text[:1000] or response.reason or f"HTTP {response.status}"


def is_not_ready(status: int, message: str) -> bool:
    """True if the server is about to serve a kind: "storage is (re)initializing", after each new CRD."""
    return status == 429 and "(re)initializing" in message


def _error(status: int, message: str, *, retry_after: float | None = None) -> ApiError:
    kind = NotReady if is_not_ready(status, message) else _BY_STATUS.get(status, ApiError)
    return kind(status, message, retry_after=retry_after)
