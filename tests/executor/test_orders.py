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
    for name, given in (("NO_PROXY", upper), ("no_proxy", lower)):
        monkeypatch.delenv(name, raising=False) if given is None else monkeypatch.setenv(name, given)
    made = environment()
    assert (made["NO_PROXY"], made["no_proxy"]) == told
