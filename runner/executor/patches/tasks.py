"""Seams of ansible-core: tasks run in the process that plays, and so do the modules of chosen collections.

Standard ansible-core forks a worker for each task, makes a folder through a shell, zips the module and starts a Python on
it. In a process that plays one CR's run and then ends, none of this is needed. What is replaced is small, and around it
ansible-core's own code does what it always does.
"""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import inspect
import io
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.queues import SimpleQueue
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ansible.errors import AnsibleError
from ansible.executor.process import worker
from ansible.executor.task_queue_manager import FinalQueue
from ansible.module_utils.common import warnings as module_warnings
from ansible.plugins import action, strategy
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from runner.executor.patches import ansible_core
from runner.executor.patches.registry import Seam, expect

display = Display()

# The folders of a collection's modules, as the loader finds them.
_MODULE = re.compile(r"/(ansible_collections/(\w+)/(\w+)/plugins/modules/\w+)\.py$")
# Of ansible-core's own modules the one that gathers facts, which most plays begin with.
_FACTS = re.compile(r"/(ansible/modules/setup)\.py$")


def seams(collections: frozenset[str]) -> list[Seam]:
    """`collections`: whose modules are called in the process."""
    return [
        ("tasks", _check_tasks, _put_tasks),
        ("temporary folders", _check_folders, _put_folders),
        ("modules", _check_modules, lambda: _put_modules(collections)),
        # Until 2.18 ansible-core does not collect callers.
        *([("callers", _check_callers, _put_callers)] if ansible_core.TAGS else []),
    ]


# Tasks


class InlineWorker(worker.WorkerProcess):  # type: ignore[misc]
    """Runs its task when it is started, and is done. What a fork would keep apart is kept apart here."""

    _task: Any
    # That which runs.
    current: InlineWorker | None = None

    # That which starts it.
    strategy: Any = None

    def start(self) -> None:
        host, current = self._host, worker.current_worker
        self._final_q = _HandedOver(self.strategy)
        self.keep_host()
        InlineWorker.current = self
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
    """What a task prints by itself is told as a warning, as of a forked worker; what it displays goes its usual way."""
    if not ansible_core.TAGS:
        # It is printed.
        yield
        return
    real = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Aside(real[0]), _Aside(real[1])
    try:
        yield
    finally:
        sys.stdout, sys.stderr = real


class _Aside(io.StringIO):
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


def _check_tasks() -> None:
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
    ansible_core.check_task_context()
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
        if InlineWorker.current is not None:
            InlineWorker.current.keep_host()
        return found

    return asked


def _put_tasks() -> None:
    strategy.WorkerProcess = InlineWorker
    # What only a process would be answered with.
    worker.WorkerQueue = lambda ctx: None
    queue_task = strategy.StrategyBase._queue_task

    def inline(self: Any, *args: Any, **kwargs: Any) -> None:
        InlineWorker.strategy = self
        try:
            queue_task(self, *args, **kwargs)
        finally:
            InlineWorker.strategy = None

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


# Callers


def _check_callers() -> None:
    _stack = importlib.import_module("ansible.module_utils._internal._stack")
    expect(_stack.iter_stack)
    expect(_stack.caller_frame)
    expect(inspect.getframeinfo, "frame", "context")


def _put_callers() -> None:
    """Who has called is looked for by each deprecation, in a list of all callers with their source code.

    kubernetes.core causes two with each template. The list is made here as far as it is looked at, and without sources.
    """

    def iter_stack() -> Iterator[inspect.FrameInfo]:
        frame = sys._getframe().f_back
        while frame is not None:
            if "_skip_stackwalk" not in frame.f_locals:
                found = inspect.getframeinfo(frame, context=0)
                yield inspect.FrameInfo(frame, found.filename, found.lineno, found.function, None, None)
            frame = frame.f_back

    _stack: Any = importlib.import_module("ansible.module_utils._internal._stack")
    _stack.iter_stack = iter_stack


# Temporary folders


def _is_here(plugin: Any) -> bool:
    """The task works on this machine as this user, so that no shell is needed to get there."""
    connection = plugin._connection
    return connection.transport == "local" and not connection.become


def _check_folders() -> None:
    expect(ActionBase._make_tmp_path, "self")
    expect(ActionBase._remote_expand_user, "self", "path")
    expect(ActionBase._remove_tmp_path, "self", "tmp_path")
    expect(ActionBase._should_remove_tmp_path, "self", "tmp_path")


def _put_folders() -> None:
    make, remove, expand = ActionBase._make_tmp_path, ActionBase._remove_tmp_path, ActionBase._remote_expand_user

    def make_tmp_path(self: Any, *args: Any, **kwargs: Any) -> str:
        if not _is_here(self):
            return str(make(self, *args, **kwargs))
        base = self._remote_expand_user(self.get_shell_option("remote_tmp", default="~/.ansible/tmp"), sudoable=False)
        try:
            os.makedirs(base, mode=0o700, exist_ok=True)
            folder = os.path.join(base, self._connection._shell._generate_temp_dir_name())
            os.mkdir(folder, mode=0o700)
        except OSError:
            # The standard way has the words for it.
            return str(make(self, *args, **kwargs))
        self._cleanup_remote_tmp = True
        self._connection._shell.tmpdir = folder + "/"
        return self._connection._shell.tmpdir  # type: ignore[no-any-return]

    def remove_tmp_path(self: Any, tmp_path: Any, *args: Any, **kwargs: Any) -> None:
        path = tmp_path or self._connection._shell.tmpdir
        if not _is_here(self) or args or kwargs or not self._should_remove_tmp_path(path):
            remove(self, tmp_path, *args, **kwargs)
            return
        shutil.rmtree(path, ignore_errors=True)
        self._connection._shell.tmpdir = None

    def remote_expand_user(self: Any, path: str, *args: Any, **kwargs: Any) -> str:
        if not _is_here(self) or not path.startswith("~/") or ".." in path:
            return str(expand(self, path, *args, **kwargs))
        return os.path.expanduser(path)

    ActionBase._make_tmp_path = make_tmp_path
    ActionBase._remove_tmp_path = remove_tmp_path
    ActionBase._remote_expand_user = remote_expand_user


# Modules


def _check_modules() -> None:
    expect(ActionBase._execute_module, "self", "module_name", "module_args", "task_vars", "wrap_async")
    expect(ActionBase._low_level_execute_command, "self", "cmd")
    expect(ActionBase._is_pipelining_enabled, "self", "module_style")
    expect(action.modify_module, "module_name", "module_path", "module_args", "templar", "environment")
    ansible_core.check_modules()
    for name in ("_global_warnings", "_global_deprecations"):
        getattr(module_warnings, name)


def _put_modules(collections: frozenset[str]) -> None:
    execute, modify = ActionBase._execute_module, action.modify_module
    # What ansible-core makes of such a module, but for the module itself.
    form: Any = None
    called: list[_Call] = []

    def execute_module(self: Any, module_name: Any = None, module_args: Any = None, *args: Any, **kwargs: Any) -> Any:
        asynchronous = kwargs.get("wrap_async") or len(args) > 4 or self._task.async_val
        path = None if asynchronous or not _is_here(self) else _path(self, module_name or self._task.action, collections)
        if path is None or not _has_this_python(kwargs.get("task_vars") or {}):
            return execute(self, module_name, module_args, *args, **kwargs)
        call = _Call(path)
        called.append(call)
        # Of this plugin's instance: a module that stands in for one that goes through a pipe.
        self._is_pipelining_enabled = lambda *_, **__: True
        self._low_level_execute_command = call
        try:
            return execute(self, module_name, module_args, *args, **kwargs)
        finally:
            called.remove(call)
            del self._is_pipelining_enabled, self._low_level_execute_command

    def modify_module(*args: Any, **kwargs: Any) -> Any:
        if not called:
            return modify(*args, **kwargs)
        nonlocal form
        if form is None:
            # Once in the life of the fork server, in its first run.
            form = modify(*args, **kwargs)
        call = called[-1]
        # Until 2.18 these are given by their place.
        call.arguments = kwargs["module_args"] if "module_args" in kwargs else args[2]
        call.profile = ansible_core.profile(form)
        call.environment = kwargs.get("environment") or {}
        return form

    ActionBase._execute_module = execute_module
    action.modify_module = modify_module


def _path(plugin: Any, name: str, collections: frozenset[str]) -> str | None:
    """The module's dotted path, if it is one of those that are called in the process."""
    loader = plugin._shared_loader_obj.module_loader
    found = loader.find_plugin_with_context(name, ".py", collection_list=plugin._task.collections)
    place = found.plugin_resolved_path or "" if found.resolved else ""
    if match := _FACTS.search(place):
        return match[1].replace("/", ".")
    match = _MODULE.search(place)
    if match is None or f"{match[2]}.{match[3]}" not in collections:
        return None
    return match[1].replace("/", ".")


def _has_this_python(variables: Any) -> bool:
    interpreter = variables.get("ansible_python_interpreter")
    if interpreter == sys.executable:
        return True
    return isinstance(interpreter, str) and Path(interpreter).resolve() == Path(sys.executable).resolve()


class _Call:
    """One call of a module in the process, in the place of a command that would run it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.arguments: dict[str, Any] = {}
        self.profile = ""
        self.environment: dict[str, str] = {}

    def __call__(self, *_: Any, **__: Any) -> dict[str, Any]:
        module_warnings._global_warnings.clear()
        module_warnings._global_deprecations.clear()
        out, errors = _Aside(sys.stdout), _Aside(sys.stderr)
        code = 0
        with (
            _kept_apart(self.environment),
            ansible_core.module_arguments(self.arguments, self.profile),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(errors),
        ):
            try:
                self._main()
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(bool(end.code))
        text, said = out.getvalue(), errors.getvalue()
        return {
            "rc": code,
            "stdout": text,
            "stdout_lines": text.splitlines(),
            "stderr": said,
            "stderr_lines": said.splitlines(),
        }

    def _main(self) -> None:
        """As what ansible-core wraps around a module does it, with its words where the module fails to end by itself."""
        try:
            importlib.import_module(self._path).main()
            raise RuntimeError("New-style module did not handle its own exit.")
        except Exception as error:
            ansible_core.report_crash(error, self.profile)


@contextlib.contextmanager
def _kept_apart(environment: dict[str, str]) -> Iterator[None]:
    """A module may change what belongs to the whole process; its task's environment is its own."""
    # As the environment has them itself: to have them all decoded takes a while.
    held: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]
    variables, folder, mask = held.copy(), os.getcwd(), os.umask(0o077)
    os.umask(mask)
    os.environ.update({name: str(value) for name, value in environment.items()})
    try:
        yield
    finally:
        if held != variables:
            os.environb.clear()
            os.environb.update(variables)
        os.chdir(folder)
        os.umask(mask)
