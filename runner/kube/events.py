"""Kubernetes Events on a CR, or on the Lease: what its owner should see with `kubectl describe`."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from uuid import uuid4

from runner.kube.client import ApiClient, KubeError
from runner.resource.metadata import Owner

logger = logging.getLogger(__name__)

# The API server refuses longer ones.
_NOTE_LIMIT = 1024
_COMPONENT = "rolerunner"


async def warn(client: ApiClient, owner: Owner, *, reason: str, note: str) -> None:
    """Post a Warning on a CR."""
    await post(client, owner, type="Warning", action="Reconcile", reason=reason, note=note)


async def post(client: ApiClient, owner: Owner, *, type: str, action: str, reason: str, note: str) -> None:
    """Post an Event. That is a courtesy: if it cannot be posted, that is logged and nothing else happens.

    One of the core group: it is the same object as one of events.k8s.io, and what most Roles allow.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    # Events on cluster-scoped objects live in the namespace `default`.
    namespace = owner.key.namespace or "default"
    body = {
        "apiVersion": "v1",
        "kind": "Event",
        # Each part of a name ends with a letter or a digit.
        "metadata": {"name": f"{owner.key.name[:200].rstrip('-.')}.{uuid4().hex[:16]}", "namespace": namespace},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
        "type": type,
        "reason": reason,
        "action": action,
        "message": note if len(note) <= _NOTE_LIMIT else note[: _NOTE_LIMIT - 1] + "…",
        "source": {"component": _COMPONENT},
        "reportingComponent": _COMPONENT,
        "reportingInstance": _COMPONENT,
        "involvedObject": {**owner.reference(), "namespace": owner.key.namespace},
    }
    try:
        await client.post(f"/api/v1/namespaces/{namespace}/events", body)
    except KubeError as error:
        logger.info("An Event could not be posted", extra={"reason": reason, "error": str(error)})
