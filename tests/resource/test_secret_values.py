import pytest

from runner.resource.secret_values import is_secret_key


@pytest.mark.parametrize(
    "key",
    [
        "password",
        "db_password",
        "tls.key",
        "POSTGRES_PASSWORD",
        "apiKey",
        "password.txt",
        "token.json",
        "admin-password.env",
    ],
)
def test_keys_of_secrets(key: str) -> None:
    assert is_secret_key(key)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "host",
        "secretName",
        "token-url",
        "password_file",
        "username.txt",
        "settings.py",
        "config.json",
        "ca_path",
        ".txt",
    ],
)
def test_keys_of_what_is_no_secret(key: str) -> None:
    assert not is_secret_key(key)
