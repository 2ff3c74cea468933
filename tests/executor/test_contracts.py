"""Nothing is imported by a name in a string, which import-linter cannot see, but for private code to be patched."""

from pathlib import Path

import runner

# The guard imports the module that it is to guard in a child, and is itself to stay small.
EXCEPTED = ("executor/patches/", "executor/guard.py")


def test_modules_are_imported_by_import_statements() -> None:
    package = Path(runner.__file__).parent
    found = [path.relative_to(package).as_posix() for path in package.rglob("*.py") if "import_module(" in path.read_text()]
    assert [path for path in found if not path.startswith(EXCEPTED)] == []
