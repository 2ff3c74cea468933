from pathlib import Path

import pytest
import yaml

from runner.config import yaml_files
from runner.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [", "file.yaml:2: no valid YAML: expected the node content, but found '<stream end>'"),
        ("- *nobody", "file.yaml:1: no valid YAML: found undefined alias 'nobody'"),
        ("a: \x07", "file.yaml: no valid YAML: unacceptable character #x0007: special characters are not allowed in"),
        ("a: 2026-13-45", "file.yaml: no valid YAML: month must be in 1..12"),
    ],
    ids=["list", "alias", "character", "date"],
)
def test_an_error_names_file_and_line_in_one_line(text: str, message: str) -> None:
    with pytest.raises((yaml.YAMLError, ValueError)) as raised:
        yaml.safe_load(text)
    told = str(yaml_files.invalid("file.yaml", raised.value))
    assert told.startswith(message)
    assert "\n" not in told


def test_a_file_that_cannot_be_read_is_told_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"missing.yaml: No such file or directory; name another$"):
        yaml_files.read_text(tmp_path / "missing.yaml", remedy="; name another")
    (tmp_path / "file.yaml").write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match=r"^mine: not UTF-8 text \(invalid start byte at byte 0\)$"):
        yaml_files.read_text(tmp_path / "file.yaml", name="mine")
