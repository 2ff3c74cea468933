"""What a run may leave in its worker's process: it is put back, or is a reason to end the worker."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from runner.executor.environment import COLLECTIONS, has_tags, python_path
from runner.executor.jobs import Limits

# A process with Ansible loaded, which does in a fork of its own what each line of JSON says: look, poison, restore, look.
SERVER = """
import importlib, json, os, sys
from ansible.plugins.loader import init_plugin_loader
from runner.executor import processes
from runner.executor.warm import reset
from runner.executor.warm.worker import COLLECTIONS

init_plugin_loader()
importlib.import_module("ansible_collections.operator_sdk.util")
reset.verify()
reset.apply()
BEFORE = {BEFORE}
exec(BEFORE)
baseline = reset.Baseline(COLLECTIONS)
print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    ours, theirs = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(ours)
        processes.adopt_orphans()
        baseline.begin()
        space = {}
        exec(BEFORE + asked["prepare"], space)
        before = eval(asked["look"], space)
        exec(asked["poison"], space)
        poisoned = eval(asked["look"], space)
        baseline.restore()
        reason = baseline.difference()
        found = {"reason": reason, "found": baseline.found, "before": before, "poisoned": poisoned}
        told = json.dumps({**found, "after": eval(asked["look"], space)})
        os.write(theirs, told.encode())
        os._exit(0)
    os.close(theirs)
    with open(ours) as answer:
        print(answer.read() or json.dumps("it has died"), flush=True)
    os.waitpid(pid, 0)
"""
BEFORE = """
import contextlib, functools, gc, io, json, locale, logging, os, random, resource, shutil, signal, socket, subprocess, sys
import tempfile, threading, time, types, urllib.request, warnings
import jinja2.defaults, jinja2.filters
from ansible import constants, context
from ansible.module_utils import basic
from ansible.parsing.vault import VaultAES256
from ansible.plugins import action, loader
from ansible.utils import color
from ansible.utils.display import Display
from ansible.utils.vars import load_extra_vars, load_options_vars
display = Display()

def said(text):
    return (text,) if isinstance(display._warns, set) else (text, 1)

def mask():
    found = os.umask(0)
    os.umask(found)
    return found
"""

Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    temporary = str(tmp_path_factory.mktemp("reset"))
    command = [sys.executable, "-c", SERVER.replace("{BEFORE}", repr(BEFORE))]
    environment = {
        **os.environ,
        "TMPDIR": temporary,
        "ANSIBLE_LOCAL_TEMP": temporary,
        "PYTHONPATH": python_path(COLLECTIONS),
    }
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        assert json.loads(server.stdout.readline()) == "ready"

        def answer(poison: str, look: str = "None", prepare: str = "") -> dict[str, Any]:
            assert server.stdin is not None
            assert server.stdout is not None
            print(json.dumps({"poison": poison, "look": look, "prepare": prepare}), file=server.stdin, flush=True)
            told: dict[str, Any] = json.loads(server.stdout.readline())
            return told

        yield answer
        server.stdin.close()


# What is done, and what it changes.
RESTORED = {
    "nothing": ("pass", "None"),
    "variable": ("os.environ['LEFT'] = 'x'", "os.environ.get('LEFT')"),
    "variable removed": ("del os.environ['PATH']", "'PATH' in os.environ"),
    "folder": ("os.chdir('/')", "os.getcwd()"),
    "folder that is gone": ("os.chdir(tempfile.mkdtemp()); os.rmdir(os.getcwd())", "len(os.listdir('.')) > 0"),
    "umask": ("os.umask(0o77)", "mask()"),
    "arguments": ("sys.argv.append('x')", "list(sys.argv)"),
    "other arguments": ("sys.argv = ['x']", "list(sys.argv)"),
    "path": ("sys.path.insert(0, '/nowhere')", "list(sys.path)"),
    "other path": ("sys.path = ['/nowhere', *sys.path]", "list(sys.path)"),
    "streams": ("sys.stdout = sys.stderr = io.StringIO()", "[type(sys.stdout).__name__, type(sys.stderr).__name__]"),
    "signal": ("signal.signal(signal.SIGUSR1, print)", "str(signal.getsignal(signal.SIGUSR1))"),
    "ignored signal": ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", "str(signal.getsignal(signal.SIGTERM))"),
    "alarm": ("signal.signal(signal.SIGALRM, print); signal.alarm(1000)", "bool(signal.getitimer(signal.ITIMER_REAL)[0])"),
    "timer": ("signal.setitimer(signal.ITIMER_VIRTUAL, 1000)", "bool(signal.getitimer(signal.ITIMER_VIRTUAL)[0])"),
    "profiling timer": ("signal.setitimer(signal.ITIMER_PROF, 1000)", "bool(signal.getitimer(signal.ITIMER_PROF)[0])"),
    "blocked signal": (
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})",
        "len(signal.pthread_sigmask(signal.SIG_BLOCK, ()))",
    ),
    "seed": ("random.seed(1)", "random.random() == random.Random(1).random()"),
    "warnings": ("warnings.simplefilter('error')", "[entry[0] for entry in warnings.filters]"),
    "collector": ("gc.disable()", "gc.isenabled()"),
    "time zone": ("os.environ['TZ'] = 'Asia/Tokyo'; time.tzset()", "list(time.tzname)"),
    "opener": (
        "urllib.request.install_opener(urllib.request.build_opener())",
        "urllib.request._opener is None",
    ),
    "verbosity": ("display.verbosity = 4", "display.verbosity"),
    "warning": ("(getattr(display._warns, 'add', None) or display._warns.__setitem__)(*said('x'))", "len(display._warns)"),
    "other warnings": ("display._warns = {'x': 1}", "len(display._warns)"),
    "attribute of the display": ("display.mine = 1", "hasattr(display, 'mine')"),
    "command line": ("context.CLIARGS = {'a': 1}", "'a' in context.CLIARGS"),
    "local folder": ("constants.DEFAULT_LOCAL_TMP = '/x'", "constants.DEFAULT_LOCAL_TMP == '/x'"),
    "colours": ("color.ANSIBLE_COLOR = 'x'", "color.ANSIBLE_COLOR == 'x'"),
    "temporary folder": ("tempfile.tempdir = '/x'", "tempfile.tempdir"),
    "extra vars": ("load_extra_vars.extra_vars = {'a': 1}", "getattr(load_extra_vars, 'extra_vars', None)"),
    "options": ("load_options_vars.options_vars = {'a': 1}", "getattr(load_options_vars, 'options_vars', None)"),
    "plugins": ("loader.lookup_loader.add_directory('/tmp')", "list(loader.lookup_loader._extra_dirs)"),
    "list among the defaults": ("constants.VARIABLE_PRECEDENCE.append('x')", "list(constants.VARIABLE_PRECEDENCE)"),
    "table among the defaults": ("constants.COLOR_CODES['x'] = '1'", "sorted(constants.COLOR_CODES)"),
    "default": ("constants.DEFAULT_BECOME = True", "constants.DEFAULT_BECOME"),
    "another default": ("constants.MINE = True", "hasattr(constants, 'MINE')"),
}

if has_tags():
    # Until 2.18 there is no such thing.
    RESTORED |= {
        "arguments of a module": ("basic._PARSED_MODULE_ARGS = {'a': 1}", "basic._PARSED_MODULE_ARGS"),
        "keys of a vault": (
            "VaultAES256._gen_key_initctr(b'password', b'salt')",
            "VaultAES256._gen_key_initctr.cache_info().currsize",
        ),
    }

# Poison that leaves what cannot be put back, and the reason why no other run is played then.
TOLD = {
    "thread": ("threading.Thread(target=time.sleep, args=[600], daemon=True).start()", "thread"),
    "child": ("subprocess.Popen(['sleep', '600'])", "child"),
    "daemon": ("subprocess.run(['sh', '-c', 'setsid sleep 600 >/dev/null 2>&1 &'])", "child"),
    "descriptor": ("left = os.open('/dev/null', os.O_RDONLY)", "descriptor"),
    "socket": ("left = socket.socket()", "descriptor"),
    "closed descriptor": ("os.close(0)", "descriptor"),
    "other descriptor": ("os.dup2(os.open('/dev/zero', os.O_RDONLY), 0); os.close(os.open('/dev/null', 0))", "descriptor"),
    "builtin": ("import builtins; builtins.print = None", "patched"),
    "new builtin": ("import builtins; builtins.left = 1", "patched"),
    "function": ("os.path.exists = lambda path: True", "patched"),
    "method": ("action.ActionBase.run = None", "patched"),
    "new attribute of a class": ("action.ActionBase.left = 1", "patched"),
    "removed attribute": ("del json.JSONDecoder.raw_decode", "patched"),
    "filter": ("jinja2.filters.FILTERS['left'] = str", "patched"),
    "other filter": ("jinja2.filters.FILTERS['upper'] = str", "patched"),
    "global of templates": ("jinja2.defaults.DEFAULT_NAMESPACE['left'] = 1", "patched"),
    "plugin loader": ("loader.PluginLoader.get = None", "patched"),
    "display": ("Display.display = None", "patched"),
    "replaced module": ("sys.modules['json'] = types.ModuleType('json')", "code"),
    "removed module": ("del sys.modules['json']", "code"),
    "foreign module": ("left = sys.modules['left'] = types.ModuleType('left'); left.__file__ = '/tmp/left.py'", "code"),
    "finder": ("sys.meta_path.append(object())", "process"),
    "path hook": ("sys.path_hooks.append(print)", "process"),
    "limit": ("resource.setrlimit(resource.RLIMIT_NOFILE, (100, 1000))", "process"),
    "locale": ("locale.setlocale(locale.LC_ALL, 'C' if locale.setlocale(locale.LC_ALL) != 'C' else 'C.UTF-8')", "process"),
    "handler of logs": ("logging.getLogger().addHandler(logging.NullHandler())", "process"),
    "level of logs": ("logging.getLogger().setLevel(1)", "process"),
    "no logs": ("logging.disable()", "process"),
    "recursion": ("sys.setrecursionlimit(2345)", "process"),
    "trace": ("sys.settrace(lambda *_: None)", "process"),
    "hook": ("sys.excepthook = print", "process"),
    "hook of threads": ("threading.excepthook = print", "process"),
    "timeout": ("socket.setdefaulttimeout(7)", "process"),
    "switch interval": ("sys.setswitchinterval(1)", "process"),
    "table of a module": ("shutil._ARCHIVE_FORMATS['left'] = 1", "patched"),
    "niceness": ("os.nice(1)", "process"),
    "group": ("os.setpgid(0, 0)", "process"),
}

# A module of a role: what it leaves in the interpreter is unknown, also when it fails.
PLUGIN = """
folder = tempfile.mkdtemp()
shy = "import sys; del sys.modules[__name__]"
for name, text in (("good", "import os"), ("bad", "import os; 1 / 0"), ("shy", shy), ("own", "x = 1"), ("broken", "1 / 0")):
    with open(f"{folder}/{name}.py", "w") as file:
        file.write(text)
loader.lookup_loader.add_directory(folder)
"""


@pytest.mark.parametrize(("poison", "look"), RESTORED.values(), ids=RESTORED)
def test_it_is_put_back(ask: Ask, poison: str, look: str) -> None:
    told = ask(poison, look)
    assert (told["after"], told["reason"]) == (told["before"], "")
    # Or nothing is shown here.
    assert poison == "pass" or told["poisoned"] != told["before"]


@pytest.mark.parametrize(("poison", "reason"), TOLD.values(), ids=TOLD)
def test_it_is_a_reason_to_end(ask: Ask, poison: str, reason: str) -> None:
    assert ask(poison)["reason"] == reason


@pytest.mark.parametrize("name", ["good", "bad", "shy"])
def test_a_roles_python_is_a_reason_to_end(ask: Ask, name: str) -> None:
    poison = f"with contextlib.suppress(Exception): __import__({name!r})"
    assert ask(PLUGIN + "sys.path.append(folder)\n" + poison)["reason"] == "code"
    poison = f"with contextlib.suppress(Exception): loader.lookup_loader.get({name!r})"
    assert ask(PLUGIN + poison)["reason"] == "code"


@pytest.mark.parametrize("name", ["own", "broken"])
def test_a_roles_python_that_keeps_nothing_is_dropped(ask: Ask, name: str) -> None:
    poison = f"with contextlib.suppress(Exception): loader.lookup_loader.get({name!r})"
    told = ask(PLUGIN + poison, f"any(name.endswith('.{name}') for name in sys.modules)")
    assert (told["after"], told["reason"]) == (told["before"], "")
    # Without folders of a role's own it is of somebody else.
    poison = f"with contextlib.suppress(Exception): __import__({name!r})"
    assert ask(PLUGIN.replace("loader.lookup", "#") + "sys.path.append(folder)\n" + poison)["reason"] == "code"


GET = "\nwith contextlib.suppress(Exception): loader.lookup_loader.get({!r})\n"


@pytest.mark.parametrize(
    ("poison", "reason", "found"),
    [
        ("threading.Thread(target=time.sleep, args=[600], daemon=True, name='left').start()", "thread", "left"),
        ("sys.modules['json'] = types.ModuleType('json')", "code", "json"),
        # What keeps nothing is not it.
        (GET.format("own") + GET.format("bad"), "code", r".+/bad\.py"),
        (GET.format("own") + "os.path.exists = lambda path: True", "patched", ""),
    ],
    ids=["thread", "module", "file", "unknown"],
)
def test_what_is_left_is_named(ask: Ask, poison: str, reason: str, found: str) -> None:
    told = ask(PLUGIN + poison)
    assert told["reason"] == reason
    assert re.fullmatch(found, told["found"])


def test_pythons_and_installed_code_is_none(ask: Ask) -> None:
    assert ask("import wave, yaml.cyaml, ansible.plugins.lookup.sequence")["reason"] == ""
    # Whoever copies an object, leaves something with its class.
    told = ask("import copy; copy.copy(json.JSONDecoder())", "'__slotnames__' in vars(json.JSONDecoder)")
    assert (told["before"], told["poisoned"], told["reason"]) == (False, True, "")


LOADED = "from runner.executor.warm import reset; import sysconfig, os; reset._loaded.append(os.path.join({}))"


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        (("sysconfig.get_path('purelib')", "'library/it.py'"), ""),
        (("sysconfig.get_path('purelib')", "'ansible_collections/other/thing/roles/it/filter_plugins/it.py'"), "code"),
        (("sysconfig.get_path('purelib')", "'ansible_collections/other/thing/plugins/lookup/it.py'"), "code"),
        (("'/elsewhere'", "'ansible_collections/operator_sdk/util/plugins/lookup/it.py'"), "code"),
        (("*CALLED", "'plugins/lookup/it.py'"), ""),
    ],
    ids=["library", "role of a collection", "collection", "same name elsewhere", "collection that is called"],
)
def test_python_counts_by_where_it_is(ask: Ask, parts: tuple[str, ...], reason: str) -> None:
    poison = LOADED.format(", ".join(parts)).replace(
        "CALLED", "sys.modules['ansible_collections.operator_sdk.util'].__path__"
    )
    assert ask(poison)["reason"] == reason


def test_memory_is_a_reason_to_end() -> None:
    """What it has more than after its first run."""
    from runner.executor.warm.reset import Uses

    uses = Uses(Limits(memory=64 * 1024**2))
    assert [uses.reason(0), uses.reason(0)] == ["", ""]
    taken = b"x" * (256 * 1024**2)
    assert uses.reason(0) == "memory"
    del taken
    # As it is now, not as it once was.
    assert uses.reason(0) == ""


def test_what_is_left_running_is_ended(ask: Ask) -> None:
    orphan = "int(subprocess.check_output(['sh', '-c', 'sleep 600 >&2 & echo $!']))"
    for start in ("subprocess.Popen(['sleep', '600']).pid", orphan):
        told = ask(f"pid = {start}", "os.path.exists(f'/proc/{pid}')", prepare="pid = 0")
        assert (told["reason"], told["poisoned"], told["after"]) == ("child", True, False)


def test_a_thread_that_is_about_to_end_is_none(ask: Ask) -> None:
    assert ask("thread = threading.Thread(target=len, args=['']); thread.start(); thread.join()")["reason"] == ""


def test_descriptors_that_garbage_holds_are_closed(ask: Ask) -> None:
    told = ask("pair = [socket.socket()]; pair.append(pair); del pair")
    assert told["reason"] == ""


def test_a_warning_is_said_again(ask: Ask) -> None:
    warn = """
def warned():
    with contextlib.redirect_stderr(io.StringIO()) as said:
        exec(compile("import warnings; warnings.warn('x')", "w.py", "exec"), module)
    return "x" in said.getvalue()
module = {"__name__": "left"}
warnings.filterwarnings("default", module="left")
"""
    told = ask("pass", "warned()", prepare=warn)
    assert (told["before"], told["poisoned"]) == (True, False)
    assert told["after"]
