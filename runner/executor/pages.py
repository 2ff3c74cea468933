"""Pages of memory that runs write to: a fork that waits for its job has its own copies of them beforehand.

A fork shares all memory with the fork server until one of the two writes to it, and Python writes to whatever it looks at.
Thousands of copies are a quarter of the time of a short run. Which pages they are is nearly the same from run to run. A run
finds out now and then, if it began without copies. Where the kernel does not tell, or does not copy on demand (other systems
than Linux, Linux before 5.14), nothing is lost but the time.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import itertools
import mmap
import time
from collections.abc import Iterable, Iterator

# Seconds for which what a run has found out is good enough.
_AGE = 600.0
# From linux/mman.h, and the bits of proc(5)'s pagemap: the page is in memory, and no other process has it.
_MADV_POPULATE_WRITE = 23
_OURS = 1 << 63 | 1 << 56

# (address, length), in bytes.
Span = tuple[int, int]


class Pages:
    """The spans that the last run that looked has written to."""

    def __init__(self) -> None:
        self._spans: list[Span] = []
        self._looked = -_AGE
        # In a fork that has copies: what it writes to cannot be told from them.
        self._copied = False

    def learned(self) -> Iterable[list[Span]]:
        if self._copied or self._is_known():
            return []
        with contextlib.suppress(OSError):
            return [list(_written())]
        return []

    def keep(self, lesson: list[Span]) -> None:
        self._spans = lesson
        self._looked = time.monotonic()

    def copy(self) -> None:
        """In a fork that has nothing to do yet. Contents stay as they are; spans that it has not are passed over."""
        madvise = getattr(ctypes.CDLL(None), "madvise", None)
        if madvise is None or not self._is_known():
            return
        self._copied = True
        for address, length in self._spans:
            madvise(ctypes.c_void_p(address), ctypes.c_size_t(length), _MADV_POPULATE_WRITE)

    def _is_known(self) -> bool:
        return time.monotonic() - self._looked < _AGE


def _written() -> Iterator[Span]:
    """Writable memory that this process shares with no other."""
    # Names of files in it may be anything.
    with open("/proc/self/maps", "rb") as maps, open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        for line in maps.readlines():
            place, rights, *_ = line.split()
            if rights != b"rw-p":
                continue
            first, last = (int(address, 16) // mmap.PAGESIZE for address in place.split(b"-"))
            pagemap.seek(first * 8)
            entries = array.array("Q", pagemap.read((last - first) * 8))
            for ours, pages in itertools.groupby(enumerate(entries, first), lambda page: page[1] & _OURS == _OURS):
                if ours:
                    numbers = [number for number, _ in pages]
                    yield numbers[0] * mmap.PAGESIZE, len(numbers) * mmap.PAGESIZE
