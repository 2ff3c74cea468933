"""Which of a role's own filters keep nothing but in their own module."""

from pathlib import Path

import pytest

from runner.executor.warm.harmless import is_harmless

# As operators have them.
CPU = """
from __future__ import (absolute_import, division, print_function)
__metaclass__ = type
from ansible.errors import AnsibleFilterError
__ERROR = "Not a valid value"

class FilterModule(object):
    def filters(self):
        self.names = {"cpu": self.cpu}
        return self.names

    def cpu(self, text):
        if not isinstance(text, str):
            raise AnsibleFilterError(__ERROR)
        parts = {}
        parts["value"] = int(text[:-1]) // 1000 if text[-1] == "m" else int(text)
        return parts["value"]
"""
WITH_LIBRARIES = """
import json, re
from datetime import datetime as when

KNOWN = {}

def twice(text):
    KNOWN[text] = KNOWN.get(text, 0) + 1
    return re.sub("a+", "b", json.dumps({"at": when.now().isoformat(), "text": text}))

class FilterModule:
    def filters(self):
        return {"twice": twice}
"""


@pytest.mark.parametrize("text", [CPU, WITH_LIBRARIES], ids=["cpu", "libraries"])
def test_functions_of_values_are_harmless(tmp_path: Path, text: str) -> None:
    path = tmp_path / "own.py"
    path.write_text(text)
    assert is_harmless(str(path))


@pytest.mark.parametrize(
    "text",
    [
        *("import os", "import requests", "from os import environ", "from . import other", "from re import *"),
        *("import json\njson.loads = str", "import json as j\nj.encoder.ESCAPE = 1", "import re\nre = 1"),
        *("import json\njson.encoder.TABLE['a'] = 1", "import json\ndel json.loads", "import re\nre._cache.clear()"),
        *("setattr(str, 'a', 1)", "f = getattr", "exec('import os')", "__import__('os')", "str.__dict__['a'] = 1"),
        *("f.__globals__['a'] = 1", "__builtins__['a'] = 1", "class A(B): pass", "class A(metaclass=B): pass"),
        *("def f(x):\n  x.a = 1", "class A:\n  def f(self):\n    self.__class__.a = 1", "def f(", "a = open('x')"),
    ],
)
def test_what_may_change_or_keep_something_is_not(tmp_path: Path, text: str) -> None:
    path = tmp_path / "own.py"
    path.write_text(text + "\n")
    assert not is_harmless(str(path))


def test_a_file_that_is_edited_is_looked_at_again(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    assert not is_harmless(str(path))
    path.write_text("def f(x):\n    return x\n")
    assert is_harmless(str(path))
    path.write_text("import os\ndef f(x):\n    return x\n")
    assert not is_harmless(str(path))
