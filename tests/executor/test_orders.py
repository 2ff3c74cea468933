import pytest

from runner.executor.orders import environment


@pytest.mark.parametrize(
    ("upper", "lower", "told"),
    [
        (None, None, ("127.0.0.1", "127.0.0.1")),
        (".svc,10.0.0.0/8", None, (".svc,10.0.0.0/8,127.0.0.1",) * 2),
        (None, ".svc", (".svc,127.0.0.1",) * 2),
        (".svc", ".local", (".svc,127.0.0.1", ".local,127.0.0.1")),
        ("127.0.0.1,.svc", "", ("127.0.0.1,.svc", "127.0.0.1")),
        ("*", None, ("*", "*")),
    ],
)
def test_no_http_proxy_between_a_run_and_the_runner(
    upper: str | None, lower: str | None, told: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.com:3128")
    for name, given in (("NO_PROXY", upper), ("no_proxy", lower)):
        monkeypatch.delenv(name, raising=False) if given is None else monkeypatch.setenv(name, given)
    made = environment()
    assert (made["NO_PROXY"], made["no_proxy"]) == told


def test_without_an_http_proxy_nothing_says_that_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Roles hand NO_PROXY on to what they make, as eda-server-operator does."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert {"NO_PROXY", "no_proxy"}.isdisjoint(environment())
