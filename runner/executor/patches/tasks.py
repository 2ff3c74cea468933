"""Tasks run in the process that plays, not in a fork for each of them.

A strategy starts a worker process for a task, and a thread of its own takes the result from a queue. Here the worker is an
object whose `start` runs the task and hands the result over; around it ansible-core's own code does what it always does.

Saves 259 ms of a run of one task, 964 of ten.
"""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import io
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.queues import SimpleQueue
from multiprocessing.reduction import ForkingPickler
from types import SimpleNamespace
from typing import Any

from ansible.errors import AnsibleError
from ansible.executor.process import worker
from ansible.executor.task_queue_manager import FinalQueue
from ansible.plugins import strategy
from ansible.utils.display import Display

from runner.executor.patches import ansible_core
from runner.executor.patches.registry import Patch, expect


class TaskInProcess(worker.WorkerProcess):  # type: ignore[misc]
    """A worker that is no process: `start` runs the task. State that a fork would have of its own is kept apart here."""

    _task: Any
    # That which runs.
    current: TaskInProcess | None = None

    # That which starts it.
    strategy: Any = None

    def start(self) -> None:
        host, current, outer = self._host, worker.current_worker, TaskInProcess.current
        self._final_q = _HandedOver(self.strategy)
        self.keep_host()
        TaskInProcess.current = self
        # It is worked on while it runs (arguments are templated, say), and may be run again: as a handler, in a retry.
        parent = self._task._parent
        self._task = self._task.copy(exclude_parent=True)
        self._task._parent = parent
        try:
            with _caught_output():
                ansible_core.run_task(self, self._run)
        except OSError as error:
            # Strategies take that for the end of the play, and its tasks, not run, for done.
            raise AnsibleError(f"A task could not be run: {error}") from error
        finally:
            # A worker empties what it takes for its own copy.
            host.vars, host.groups = self._kept
            worker.current_worker = current
            # By way of its strategy it holds all of the run: callback plugins, say, with their connections.
            TaskInProcess.current = outer

    def keep_host(self) -> None:
        self._kept = self._host.vars, self._host.groups

    def is_alive(self) -> bool:
        return False

    def close(self) -> None:
        pass


class _HandedOver(FinalQueue):  # type: ignore[misc]
    """The queue on which a task sends its result and a loop's items: they arrive at once, in the thread of the task.

    With a thread that waits for them there, the strategy sleeps until it has noticed.
    """

    def __init__(self, strategy_of_task: Any) -> None:
        self._strategy = strategy_of_task

    def put(self, message: Any) -> None:
        # A copy, as of what another process sends, in none of the task's contexts.
        contextvars.Context().run(self._take, ForkingPickler.dumps(message))

    def _take(self, message: Any) -> None:
        current, worker.current_worker = worker.current_worker, None
        self._messages = iter((ForkingPickler.loads(message), strategy._sentinel))
        try:
            with _outputs_of_displays():
                strategy.results_thread_main(_Receiver(self._strategy, self))
        finally:
            worker.current_worker = current

    def get(self) -> Any:
        return next(self._messages)


class _Receiver:
    """A strategy, to a thread that takes what comes on another queue."""

    def __init__(self, strategy_of_task: Any, queue: _HandedOver) -> None:
        self._strategy, self._final_q = strategy_of_task, queue

    def __getattr__(self, name: str) -> Any:
        return getattr(self._strategy, name)


@contextlib.contextmanager
def _caught_output() -> Iterator[None]:
    """A task's own prints become a warning, as in a forked worker; what it displays goes its usual way."""
    if not ansible_core.TAGS:
        # It is printed.
        yield
        return
    real = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Aside(real[0]), Aside(real[1])
    try:
        yield
    finally:
        sys.stdout, sys.stderr = real


class Aside(io.StringIO):
    """Takes the place of an output for the thread that made it; `real` is the one that displays go to."""

    def __init__(self, replaced: Any) -> None:
        super().__init__()
        self.real = getattr(replaced, "real", replaced)
        self._thread = threading.get_ident()

    def write(self, text: str) -> int:
        # A thread of a plugin may display something while the task runs.
        return super().write(text) if threading.get_ident() == self._thread else int(self.real.write(text))

    def flush(self) -> None:
        if threading.get_ident() != self._thread:
            self.real.flush()


@contextlib.contextmanager
def _outputs_of_displays() -> Iterator[None]:
    aside = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (getattr(stream, "real", stream) for stream in aside)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = aside


def _display_through(original: Callable[..., Any]) -> Callable[..., Any]:
    def through(self: Any, *args: Any, **kwargs: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            # It goes through by itself; the task must not lose what takes its output, nor get it back when it is over.
            return original(self, *args, **kwargs)
        with _outputs_of_displays():
            return original(self, *args, **kwargs)

    return through


def _verbose_as_of_a_worker(original: Callable[..., Any]) -> Callable[..., Any]:
    # ansible-runner's mark on verbose messages is lost on the way from a worker.
    unmarked = getattr(original, "__wrapped__", original)

    def verbose(self: Any, *args: Any, **kwargs: Any) -> Any:
        return (original if worker.current_worker is None else unmarked)(self, *args, **kwargs)

    return verbose


def verify() -> None:
    expect(
        worker.WorkerProcess.__init__,
        *("self", "final_q", "task_vars", "host", "task", "play_context", "loader"),
        *("variable_manager", "shared_loader_obj", "worker_id", *(["cliargs"] if ansible_core.TAGS else [])),
    )
    expect(worker.WorkerProcess._run, "self")
    expect(worker.WorkerQueue, "maxsize", "ctx")
    expect(strategy.StrategyBase._queue_task, "self", "host", "task", "task_vars", "play_context")
    expect(strategy.results_thread_main, "strategy")
    expect(SimpleQueue.put, "self", "obj")
    if not isinstance(strategy._sentinel, strategy.StrategySentinel) or not issubclass(FinalQueue, SimpleQueue):
        raise LookupError("results come in another way")
    ansible_core.verify_task_context()
    if strategy.WorkerProcess is not worker.WorkerProcess:
        raise LookupError("the strategies start other workers")
    from ansible.playbook.task import Task

    expect(Task.copy, "self", "exclude_parent")
    rpc = _rpc()
    if rpc is not None:
        methods = {name for name, value in vars(rpc).items() if isinstance(value, staticmethod)}
        if methods != _RPC or not all(hasattr(getattr(rpc, name), "__wrapped__") for name in methods):
            raise LookupError(f"workers ask for other things: {', '.join(sorted(methods))}")
        from ansible._internal import _rpc_host

        expect(_rpc_host.LocalManager.shared_instance)


# What tasks have done by the process that plays, from ansible-core 2.21 on.
_RPC = {"add_host", "add_group"}


def _rpc() -> Any:
    try:
        return importlib.import_module("ansible._internal._worker._inventory_rpc").InventoryRPC
    except ImportError:
        return None


def _asking(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that a task calls in the process that plays, which may change the task's own host."""

    def asked(*args: Any, **kwargs: Any) -> Any:
        found = function(*args, **kwargs)
        if TaskInProcess.current is not None:
            TaskInProcess.current.keep_host()
        return found

    return asked


def apply() -> None:
    strategy.WorkerProcess = TaskInProcess
    # What only a process would be answered with.
    worker.WorkerQueue = lambda ctx: None
    queue_task = strategy.StrategyBase._queue_task

    def inline(self: Any, *args: Any, **kwargs: Any) -> None:
        TaskInProcess.strategy = self
        try:
            queue_task(self, *args, **kwargs)
        finally:
            TaskInProcess.strategy = None

    strategy.StrategyBase._queue_task = inline
    Display.display = _display_through(Display.display)
    Display.verbose = _verbose_as_of_a_worker(Display.verbose)
    rpc = _rpc()
    if rpc is not None:
        from ansible._internal import _rpc_host

        # The caller and the called are one: no server and none of its threads, and no waiting for oneself.
        client = SimpleNamespace(**{name: _asking(getattr(rpc, name).__wrapped__) for name in _RPC})
        rpc.get_client = classmethod(lambda cls: client)
        _rpc_host.LocalManager.shared_instance = classmethod(lambda cls: None)


PATCH = Patch("tasks", verify, apply)
