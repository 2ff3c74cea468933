"""The journal of runs that all shards of the simulation write, and what is computed of it and of the CRs' labels.

Times are of the system's monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path


class RunEvent(StrEnum):
    """`CUT`: the run was ended before its time. `OVERLAP`: it begins while another run of its CR is on."""

    BEGIN = "begin"
    END = "end"
    CUT = "cut"
    OVERLAP = "overlap"


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the journal: what happened with a run of a CR, by its name, on a shard."""

    at: float
    event: RunEvent
    shard: str
    cr: str


class Journal:
    """The journal as one process writes it. An entry is one write, so that those of several processes do not mix."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def add(self, entry: Entry) -> None:
        os.write(self._file, json.dumps(asdict(entry)).encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)


class Reader:
    """The journal as it grows: `entries` are those that were there when `update` was called last."""

    def __init__(self, path: Path) -> None:
        self.entries: list[Entry] = []
        self._path = path
        self._offset = 0

    def update(self) -> list[Entry]:
        """The entries that have come since the last time."""
        with open(self._path, "rb") as file:
            file.seek(self._offset)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        found = [Entry(**{**fields, "event": RunEvent(fields["event"])}) for fields in map(json.loads, whole.splitlines())]
        self.entries += found
        return found


@dataclass(frozen=True, slots=True)
class Ownership:
    """A CR's labels from a moment on: its shard, empty for none, and whether that is asked to let it go."""

    at: float
    cr: str
    shard: str
    draining: bool = False


def since(entries: Iterable[Entry], begun: float) -> list[Entry]:
    return [entry for entry in entries if entry.at >= begun]


def count(entries: Iterable[Entry], event: RunEvent) -> int:
    return sum(entry.event is event for entry in entries)


def rate(entries: Iterable[Entry], begun: float) -> float:
    """Runs a second that ended, from `begun` to the last of them; 0 if there was none."""
    ends = [entry.at for entry in entries if entry.event is RunEvent.END and entry.at > begun]
    return len(ends) / (max(ends) - begun) if ends else 0.0


@dataclass(frozen=True, slots=True)
class Gap:
    """How long a CR was without an owner, which is a shard that would begin a run of it; several times are added up."""

    lost: float
    regained: float
    seconds: float


def gaps(ownerships: Iterable[Ownership], begun: float, gone: Collection[str] = ()) -> dict[str, Gap]:
    """By CR, how long it was without an owner after `begun`; those that always had one, or still have none, are left out.

    A CR is without an owner while it has no shard's label, while it has that of a shard of `gone`, which work no more from
    `begun` on, and while its shard is asked to let it go.
    """
    by_cr: dict[str, list[Ownership]] = {}
    for ownership in sorted(ownerships, key=lambda ownership: ownership.at):
        by_cr.setdefault(ownership.cr, []).append(ownership)
    found: dict[str, Gap] = {}
    for cr, of_cr in by_cr.items():
        for ownership, after in itertools.pairwise(of_cr):
            is_owned = bool(ownership.shard) and ownership.shard not in gone and not ownership.draining
            if not is_owned and after.at > begun:
                start = max(ownership.at, begun)
                before = found.get(cr, Gap(start, start, 0.0))
                found[cr] = Gap(before.lost, after.at, before.seconds + after.at - start)
    return found


def next_runs(entries: Iterable[Entry], lost: Mapping[str, float], owners: Mapping[str, str]) -> dict[str, float]:
    """By CR, the seconds from when it was lost to the first run that its owner, as given, began."""
    found: dict[str, float] = {}
    for entry in sorted(entries, key=lambda entry: entry.at):
        at = lost.get(entry.cr)
        if at is not None and entry.event is RunEvent.BEGIN and entry.at >= at and owners.get(entry.cr) == entry.shard:
            found.setdefault(entry.cr, entry.at - at)
    return found


def shares(owners: Mapping[str, str], shards: Collection[str]) -> list[float]:
    """How many CRs each shard has, as a share of the mean, the least first."""
    counts = Counter(owners.values())
    mean = len(owners) / len(shards)
    return sorted(counts[shard] / mean for shard in shards)


def moved(before: Mapping[str, str], after: Mapping[str, str]) -> set[str]:
    """The CRs whose shard is another."""
    return {cr for cr, shard in after.items() if before.get(cr) != shard}


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """The least, the median and the most; zeros of none."""
    ordered = sorted(values) or [0.0]
    return ordered[0], ordered[len(ordered) // 2], ordered[-1]
