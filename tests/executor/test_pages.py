"""Pages of memory that a run writes to, and a fork's own copies of them beforehand."""

import ast
import mmap
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.executor.pages import Pages

COUNT = 2000

pytestmark = pytest.mark.skipif(not Path("/proc/self/pagemap").exists(), reason="the kernel does not tell")


@pytest.fixture
def memory() -> mmap.mmap:
    """Of which all pages are there."""
    memory = mmap.mmap(-1, COUNT * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    write(memory)
    return memory


def write(memory: mmap.mmap) -> None:
    memory[:: mmap.PAGESIZE] = bytes(number % 256 for number in range(COUNT))


def faults(work: Callable[[], object]) -> int:
    """The pages that are fetched or copied meanwhile."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def in_a_fork(work: Callable[[], object]) -> object:
    """What the work gives in a fork of this process."""
    there, here = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(here, repr(work()).encode())
        finally:
            os._exit(0)
    os.close(here)
    with open(there, "rb") as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return ast.literal_eval(text.decode())


def test_what_one_fork_has_written_to_another_has_copies_of(memory: mmap.mmap) -> None:
    pages = Pages()

    def run() -> object:
        write(memory)
        return list(pages.learned())

    (lesson,) = in_a_fork(run)  # type: ignore[misc]
    assert sum(length for _, length in lesson) >= COUNT * mmap.PAGESIZE
    assert in_a_fork(lambda: faults(lambda: write(memory))) >= COUNT  # type: ignore[operator]
    pages.keep(lesson)

    def prepared() -> object:
        pages.copy()
        same = memory[:: mmap.PAGESIZE] == bytes(number % 256 for number in range(COUNT))
        return same, faults(lambda: write(memory))

    same, count = in_a_fork(prepared)  # type: ignore[misc]
    assert same
    assert count < COUNT / 10


def test_it_is_found_out_now_and_then_only(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = Pages()
    pages.keep([])
    assert list(pages.learned()) == []
    after(601, monkeypatch)
    assert len(list(pages.learned())) == 1


def test_what_was_copied_beforehand_does_not_count_as_written(memory: mmap.mmap, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = Pages()
    pages.keep([])

    def copied() -> object:
        pages.copy()
        after(601, monkeypatch)
        return list(pages.learned())

    assert in_a_fork(copied) == []


def test_what_is_known_for_long_is_not_copied_so_that_it_is_found_out_anew(
    memory: mmap.mmap, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = Pages()
    pages.keep([(mmap.PAGESIZE, mmap.PAGESIZE)])
    after(601, monkeypatch)

    def late() -> object:
        pages.copy()
        return len(list(pages.learned()))

    assert in_a_fork(late) == 1


def test_memory_that_is_not_there_is_passed_over() -> None:
    pages = Pages()
    pages.keep([(mmap.PAGESIZE, mmap.PAGESIZE)])
    pages.copy()


def after(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    later = time.monotonic() + seconds
    monkeypatch.setattr(time, "monotonic", lambda: later)
