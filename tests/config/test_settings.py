import pytest

from runner.config.settings import Address, is_pattern, parse_address, search_paths
from runner.errors import ConfigurationError
from tests.config.test_flags import read


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":6789", Address("", 6789)),
        ("127.0.0.1:0", Address("127.0.0.1", 0)),
        ("[::1]:8443", Address("::1", 8443)),
        ("0", None),
        ("", None),
    ],
)
def test_addresses(text: str, address: Address | None) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["6789", "host", "host:", ":x", ":70000", ":" + "1" * 5000])
def test_what_is_no_address_is_told_with_its_flag(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"--metrics-bind-address .*: write HOST:PORT"):
        read(f"--metrics-bind-address={text}")


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (None, ()),
        ("", ()),
        ("a", ("a",)),
        ("a,b", ("a", "b")),
        (" a, ,b ,a", ("a", "b")),
        ("team-*, a", ("team-*", "a")),
        ("team-*,!team-x,a,!b", ("team-*,!team-x,!b", "a,!team-x,!b")),
        ("!kube-*", ("*,!kube-*",)),
    ],
)
def test_watch_namespace(value: str | None, names: tuple[str, ...]) -> None:
    assert read(**({} if value is None else {"WATCH_NAMESPACE": value})).namespaces == names


def test_search_paths_are_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    monkeypatch.setenv("HOME", "/home/someone")
    assert [str(path) for path in search_paths("roles::/opt/r:~/r")] == ["/roles", "/opt/r", "/home/someone/r"]


@pytest.mark.parametrize(("name", "expected"), [("a-b", False), ("a-*", True), ("a?", True), ("[ab]", True), ("a,!b", True)])
def test_what_is_a_pattern(name: str, expected: bool) -> None:
    assert is_pattern(name) is expected
