"""Owner references: added to what runs create, in the request or in the cluster. Kinds of dependents are reported.

Next on the way: `runner.proxy.sessions`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from urllib.parse import quote

from multidict import MultiDict

from runner.json_codec import JsonObject, decode, encode
from runner.kube.client import ApiClient, Conflict, KubeError, NotFound
from runner.kube.discovery import Discovery, Resource
from runner.proxy.cached_reads import Covering, from_store
from runner.proxy.call import Call, object_in, version_of
from runner.proxy.requestinfo import RequestInfo
from runner.resource.metadata import Object, controllers, is_deleting, is_owned, own, split_api_version

logger = logging.getLogger(__name__)

# Events describe an object and are no part of it: a role that writes one with each run would be run for each one, for ever.
_EVENTS = frozenset({("", "events"), ("events.k8s.io", "events")})
# Others may write what has just been created.
_TRIES = 5


class Ownership:
    """Makes a run's CR the owner of what the run creates, and reports the kinds of what the CR owns.

    `controls` says of which kinds it becomes the controller, too.
    """

    def __init__(
        self,
        client: ApiClient,
        discovery: Discovery,
        covering: Covering,
        *,
        controls: Callable[[Resource], bool] = lambda resource: False,
    ) -> None:
        self._client = client
        self._discovery = discovery
        self._covering = covering
        self._controls = controls

    async def add_owner(self, body: bytes, call: Call) -> tuple[bytes, bool]:
        """The body with the owner added, if it creates an object, or replaces one that the owner has already.

        The second value is true if the owner has to be added to the created object, since the body cannot be read here.
        """
        info, owner = call.info, call.session.owner
        if not info.is_resource or info.subresource or not (call.creates or call.replaces):
            return body, False
        resource = await self._discovery.by_plural(info.api_version, info.plural)
        # Reviews (SubjectAccessReview, TokenReview …) are created but not kept.
        if resource is None or not {"get", "list"} & resource.verbs:
            return body, False
        obj = object_in(body)
        if obj is not None and is_owned(obj, owner):
            return body, False
        replaced = await self._replaced(call) if call.replaces else {}
        if replaced is None:
            return body, False
        if obj is None:
            # Protobuf, YAML, something compressed, or nothing that the API server would take either.
            return body, True
        # What a replacement leaves out is taken from the object, and another controller stays one if an apply leaves it out.
        known = [reference.get("uid") == owner.uid for reference in controllers(replaced)]
        controller = all(known) if known else self._controls(resource)
        own(obj, owner, namespace=info.namespace if resource.namespaced else "", controller=controller)
        return encode(obj), False

    async def _replaced(self, call: Call) -> Object | None:
        """The object that is replaced, empty if it does not exist yet; None if it has not the owner already."""
        content = from_store(call.info, MultiDict(), None, session=call.session, covering=self._covering)
        try:
            existing = decode(content) if content else await self._client.get(call.path)
        except NotFound:
            return {}
        except KubeError:
            # The write itself will hear of it.
            return None
        call.session.record_read(call.info, existing)
        return existing if is_owned(existing, call.session.owner) else None

    async def add_owner_to_created(self, call: Call, info: RequestInfo, obj: JsonObject) -> JsonObject:
        """The object with its owner added in the cluster; unchanged if that cannot be done."""
        session = call.session
        path = call.path if call.info.name else f"{call.path.rstrip('/')}/{quote(info.name)}"
        try:
            resource = await self._discovery.by_plural(info.api_version, info.plural)
            controller = resource is not None and self._controls(resource)
            for _ in range(_TRIES):
                if is_owned(obj, session.owner) or is_deleting(obj):
                    return obj
                before = obj["metadata"]["resourceVersion"]
                marked = {"metadata": dict(obj["metadata"])}
                own(marked, session.owner, namespace=obj["metadata"].get("namespace", ""), controller=controller)
                names = ("annotations", "ownerReferences", "resourceVersion")
                patch = {name: value for name, value in marked["metadata"].items() if name in names}
                try:
                    obj = await self._client.patch(path, {"metadata": patch})
                except Conflict:
                    obj = await self._client.get(path)
                else:
                    session.writes.add(info, version_of(obj))
                    session.record_write(info, obj, before=before)
        except KubeError as error:
            logger.warning("What a run has created got no owner", extra={"path": path, "error": str(error)})
        return obj

    async def report_dependent(self, call: Call, obj: Object) -> None:
        """Have the object's kind watched if the run's CR owns it."""
        info, session = call.info, call.session
        is_event = (split_api_version(info.api_version)[0], info.plural) in _EVENTS
        if info.subresource or is_event or not is_owned(obj, session.owner):
            return
        # The request is done and answered to the run even if the kind cannot be discovered now.
        with contextlib.suppress(KubeError):
            resource = await self._discovery.by_plural(info.api_version, info.plural)
            # Metadata or a table may be all that was asked for.
            if resource is not None and obj.get("kind") in (None, resource.gvk.kind):
                session.on_dependent(resource, obj)
