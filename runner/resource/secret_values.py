"""Recognition of secrets among the values of a Secret, by an entry's key and value.

Most of what stands in Secrets next to passwords are names: of a host, a user, a database, a mode. Masked everywhere, they
would make unreadable what an operator says of its own objects. The rules are those of `runner.resource.masking`.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

MASK = "********"
# What stands for a Secret's value that is no text, which the API server refuses: its type has to be seen.
NUMBER, BOOLEAN = "a number", "a boolean"
MASKED_NUMBER, MASKED_BOOLEAN = f"{MASK} ({NUMBER})", f"{MASK} ({BOOLEAN})"
# The fields of a Secret that hold its entries.
SECRET_FIELDS = ("data", "stringData")
# A shorter text is part of too many other words.
SHORTEST = 6

_KEY_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
# What makes a key a secret's wherever it stands in it, and what does as its last word.
_SECRET_STEMS = (
    *("password", "passwd", "passphrase", "secret", "token", "credential", "apikey", "privatekey", "symmetrickey"),
    *("dockerconfigjson", "dockercfg", "kubeconfig", "connectionstring"),
)
_SECRET_WORDS = frozenset({
    *("pass", "pwd", "pw", "pin", "key", "keys", "auth", "authorization", "bearer", "jwt", "cert", "crt", "pem", "keystore"),
    *("cookie", "salt", "hash", "seed", "dsn", "otp", "signature"),
})  # fmt: skip
# What a key as a whole is about, if its last word is this: a secret's name, place or kind.
_ABOUT = frozenset({
    *("name", "names", "user", "username", "id", "url", "uri", "endpoint", "host", "hostname", "port"),
    *("path", "file", "dir", "type", "mode", "method", "class", "ref", "namespace", "enabled", "size"),
    *("length", "algorithm", "policy", "ttl"),
})  # fmt: skip
# `password.txt` holds a password.
_FILE_ENDING = re.compile(r"\.(?:py|ya?ml|json|conf|cfg|ini|toml|xml|properties|env|sh|txt)$")

_NAMELIKE = re.compile(r"[A-Za-z0-9_.:/-]+")
SEGMENT = re.compile(r"[^\W_]+")
_RUN = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
_TOKEN_LIKE = re.compile(r"[A-Za-z0-9+/_.-]+={0,2}")
# Made by machines, but changing as seldom as names do: a UUID, a long number, bytes in hexadecimal.
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_LONG_NUMBER, _HEXADECIMAL = re.compile(r"[0-9]{12,}"), re.compile(r"[0-9a-fA-F]{16,}")
# Digits among a word's letters, as in `hunter2abc`; not in `v1alpha1`, `s3bucket`, `us-east-1a`, `pg15.example.com`.
_MIXED = re.compile(r"(?=[A-Za-z0-9]{8,64}\Z)[A-Za-z0-9]*[A-Za-z]{3}[0-9]+[A-Za-z]")
_LONGEST_NAME, _LONGEST_WORD, _RANDOM, _PASSPHRASE = 253, 24, 16, 12
# An answer of the API server quotes an object as a string in its own JSON.
_DEEPEST = 3

# `password = "x"`, `'password': 'x'`, `password=x;`. What may match in more than one way is bounded.
_SETTING = re.compile(
    r"""(?<![\w.-])([\w.-]{1,64})["']?[ \t]{0,8}[:=][ \t]{0,8}(?:"([^"\n]*)"|'([^'\n]*)'|([^\s"',;&{}\[\]]+))"""
)
_IN_URL = re.compile(r"://[^\s/@:]{0,256}:([^\s/@]{1,1024})@")


def secrets_of(key: str, text: str) -> Iterator[str]:
    """Yield what of a Secret's entry has to be masked in any text: the whole, parts of it, or nothing."""
    text = text.strip()
    is_one_word = len(text.split(None, 1)) < 2
    if is_secret_key(key) or (_is_secret_word(text) if is_one_word else _is_secret_text(text)):
        yield text
    for user_password in _IN_URL.finditer(text):
        yield user_password[1]
        yield unquote(user_password[1])
    parsed = _json(text)
    if parsed is not None:
        yield from (secret for name, leaf in _leaves(parsed) for secret in secrets_of(name, leaf))
    elif not is_one_word:
        for setting in _SETTING.finditer(text):
            if is_secret_key(setting[1]):
                yield setting[2] or setting[3] or setting[4] or ""
            if is_secret_key(setting[1]) and setting[4]:
                # Without quotes, it may end with the word or with the line.
                yield text[setting.start(4) : setting.start(4) + _LONGEST_NAME].partition("\n")[0].strip(" \t\r,;")
        yield from filter(is_random, (word.strip("'\",;") for word in text.split()))
        if is_secret_key(key):
            yield from (line.strip() for line in text.splitlines() if len(line.split(None, 1)) == 1)


def is_secret_key(key: str) -> bool:
    """True if a key says that its value is a secret: `db_password`, `tls.key`, `token.txt`; not `secretName`."""
    words = [word.lower() for word in _KEY_PART.findall(_FILE_ENDING.sub("", key[:_LONGEST_NAME]))]
    if not words or words[-1] in _ABOUT:
        return False
    return words[-1] in _SECRET_WORDS or any(stem in "".join(words) for stem in _SECRET_STEMS)


def _is_secret_word(text: str) -> bool:
    return not is_plain(text) or bool(_MIXED.match(text))


def _is_secret_text(text: str) -> bool:
    """True for several words that may be a passphrase, which is masked as a whole only."""
    return "\n" in text or len(text) >= _PASSPHRASE


def is_plain(text: str) -> bool:
    """True if a text looks like a name, a word, a number, a path or a URL, and not like a secret."""
    if len(text) > _LONGEST_NAME or not _NAMELIKE.fullmatch(text):
        return False
    return _has_plain_segments(text) and not _LONG_NUMBER.fullmatch(text)


def is_random(text: str) -> bool:
    """True if a word looks like a secret among others: a key, a token, a line of a certificate."""
    return len(text) >= _RANDOM and bool(_TOKEN_LIKE.fullmatch(text)) and not _has_plain_segments(text)


def _has_plain_segments(text: str) -> bool:
    """True if the parts of a text change between small and capital letters and digits as seldom as names do."""
    if _UUID.search(text):
        return False
    for segment in SEGMENT.findall(text):
        runs = _RUN.findall(segment)
        if max(map(len, runs), default=0) > _LONGEST_WORD or _HEXADECIMAL.fullmatch(segment):
            return False
        if len(runs) > 3 and len(segment) < 4 * len(runs) and not (len(runs) == 4 and segment.islower()):
            return False
    return True


def is_value(value: object) -> bool:
    return isinstance(value, (str, int, float)) and not isinstance(value, bool)


def _json(text: str) -> Any:
    if text.startswith(("{", "[")):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            pass
    return None


def _leaves(value: object) -> Iterator[tuple[str, str]]:
    """The texts in a JSON value, each with the nearest key."""
    left = [("", value)]
    while left:
        key, found = left.pop()
        if isinstance(found, dict):
            left += found.items()
        elif isinstance(found, list):
            left += ((key, item) for item in found)
        elif is_value(found):
            yield key, str(found)


def encoded(text: str) -> str:
    return base64.b64encode(text.encode(errors="surrogatepass")).decode()


def decoded(text: str) -> str | None:
    try:
        return base64.b64decode(text, validate=True).decode()
    except (binascii.Error, ValueError):
        return None


def spellings(secret: str) -> set[str]:
    """The spellings of a secret in texts: as it is, in Python, and in JSON, which the API server quotes in JSON."""
    found = {secret, repr(secret)[1:-1]}
    plain = json.dumps(secret, ensure_ascii=False)[1:-1]
    # Go escapes three characters more.
    go = plain.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")
    for spelling in (json.dumps(secret)[1:-1], plain, go):
        for _ in range(_DEEPEST):
            found.add(spelling)
            spelling = json.dumps(spelling)[1:-1]
    return found


def pairs(key: str, value: str) -> Iterator[tuple[str, str]]:
    """A key and its value as they stand in JSON, in Python and in YAML, each also with the value masked."""
    if value:
        yield f"{json.dumps(key)}: {json.dumps(value)}", f'{json.dumps(key)}: "{MASK}"'
        yield f"{key!r}: {value!r}", f"{key!r}: '{MASK}'"
        # In YAML without quotes a line's end is the value's, also where the text is quoted.
        for before, after in (("", "\n"), ("", "\\n"), ('"', '"'), ("'", "'")):
            yield f"{key}: {before}{value}{after}", f"{key}: {before}{MASK}{after}"
