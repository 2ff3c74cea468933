"""Dry runs: every write of the run has to be a server-side dry run, whose result is recorded; any other is refused.

kubernetes.core's modules ask for dry runs themselves in check mode. What does not (a command, a call of the API by `uri`,
exec) is refused here, whatever the role intends.

Next on the way: `runner.resource.diff`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from urllib.parse import unquote

from runner.errors import RolerunnerError
from runner.json_codec import JsonObject
from runner.proxy.requestinfo import RequestInfo, parse
from runner.resource.diff import Change
from runner.resource.metadata import Object, split_api_version

READS = frozenset({"GET", "HEAD", "OPTIONS"})
_ALL = ["All"]
# Questions that are asked by creating something that nobody keeps.
_QUESTIONS = frozenset({"authentication.k8s.io", "authorization.k8s.io"})
# Others mean more than a change of the object (eviction, binding, a token), and not all of them support dryRun.
_SUBRESOURCES = frozenset({"", "scale", "status"})


class Refusal(RolerunnerError):
    """A request that a dry run may not make; `str()` says why."""


@dataclass(slots=True, kw_only=True)
class DryRun:
    """The record of one dry run. A read of `path` answers with `cr`, which the cluster may not have, or not like this."""

    cr: Object
    path: str
    changes: list[Change] = field(default_factory=list)
    # METHOD PATH of each.
    refused: list[str] = field(default_factory=list)

    def record(self, info: RequestInfo, *, before: Object | None, sent: Object | None, answer: Object) -> None:
        """Record the effect of a write. `before`: the object as it was; `sent`: the request's body."""
        if info.subresource == "status":
            return
        # A creation is as the role wrote it: the server's defaults are many. A deletion's answer says no more of it.
        after = sent or answer if before is None else answer
        change = Change(before=before, after=after)
        if change.is_one:
            self.changes.append(change)

    def record_deletion(self, *, before: Object | None, answer: Object) -> None:
        """Record a deletion. For several objects at once the answer is a list, whose kind says theirs."""
        kind = {"apiVersion": answer.get("apiVersion"), "kind": str(answer.get("kind")).removesuffix("List")}
        objects = [before] if before else [{**kind, **item} for item in answer.get("items") or ()]
        self.changes += [Change(before=obj, after=None) for obj in objects]


def check_read(method: str, path: str, *, connects: bool) -> None:
    """Raise Refusal for a request that does more than read although its method is a read's."""
    if connects or any(part in (".", "..") for part in unquote(path).split("/")):
        raise Refusal(f"{method} {path} is refused: this run is a plan, which only reads and makes dry runs")


def is_question(method: str, info: RequestInfo) -> bool:
    return method == "POST" and not info.subresource and split_api_version(info.api_version)[0] in _QUESTIONS


def check_write(method: str, path: str, *, dry_run: list[str], body: bytes | None) -> bytes | None:
    """The body to send. Raises Refusal if the write is not certain to be a dry run. `dry_run`: the query's values."""
    info = parse(path)
    certain = info.is_resource and info.subresource in _SUBRESOURCES and "%2f" not in path.lower()
    if method == "DELETE" and body:
        # The API server ignores the query then.
        options = _options(body)
        if certain and options.get("dryRun") == _ALL:
            return json.dumps(options).encode()
    elif certain and dry_run == _ALL:
        return body
    raise Refusal(f"{method} {path} is refused: this run is a plan, and the request is no dry run (dryRun=All)")


def _options(body: bytes) -> JsonObject:
    try:
        options = json.loads(body)
    except ValueError:
        return {}
    return options if isinstance(options, dict) else {}
