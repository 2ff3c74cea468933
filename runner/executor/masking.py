"""Keeps the data of Secrets out of events, and so out of logs, statuses and artifacts.

Ansible hides what a task marks `no_log`. Roles forget to: a task that creates or reads a Secret has its data in its
arguments and in its result, in structured form and again in the text that Ansible prints. Whatever was once seen as a
Secret's data is masked wherever it comes up in the rest of the run.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable
from typing import Any

MASK = "********"

# A shorter text would be masked in innocent places, as part of other words.
_SHORTEST = 6


class Masker:
    """Remembers what it has seen for the length of one run, beside the `secrets` that it is told of at the start."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: set[str] = set()
        # The same as they stand in JSON.
        self._in_json: set[str] = set()
        for secret in secrets:
            self._add(secret)

    def mask(self, value: Any) -> Any:
        """A copy of the JSON value without any Secret's data."""
        self._learn(value)
        return self._cover(value)

    def mask_json(self, text: str) -> str:
        """The same for a JSON value as text; most have nothing to be masked, which is seen without parsing them."""
        if '"Secret"' not in text and not any(secret in text for secret in self._in_json):
            return text
        return json.dumps(self.mask(json.loads(text)))

    def _learn(self, value: Any) -> None:
        if isinstance(value, dict):
            if value.get("kind") == "Secret":
                for name in ("data", "stringData"):
                    entries = value.get(name)
                    if isinstance(entries, dict):
                        for entry in filter(lambda item: isinstance(item, str), entries.values()):
                            self._remember(entry, encoded=name == "data")
            for item in value.values():
                self._learn(item)
        elif isinstance(value, list):
            for item in value:
                self._learn(item)

    def _remember(self, secret: str, *, encoded: bool) -> None:
        texts = [secret]
        try:
            if encoded:
                texts.append(base64.b64decode(secret, validate=True).decode())
            else:
                texts.append(base64.b64encode(secret.encode()).decode())
        except (binascii.Error, UnicodeDecodeError):
            pass
        for text in texts:
            # Printed results are JSON, in which line ends and quotes are escaped, and a loop's items are Python's.
            for spelling in (text, text.strip(), json.dumps(text)[1:-1], repr(text)[1:-1]):
                if len(spelling) >= _SHORTEST:
                    self._add(spelling)

    def _add(self, secret: str) -> None:
        self._secrets.add(secret)
        self._in_json.add(json.dumps(secret)[1:-1])

    def _cover(self, value: Any) -> Any:
        if isinstance(value, str):
            # The longest first: one secret may be part of another.
            for secret in sorted(self._secrets, key=len, reverse=True):
                if secret in value:
                    value = value.replace(secret, MASK)
            return value
        if isinstance(value, dict):
            covered = {name: self._cover(item) for name, item in value.items()}
            if value.get("kind") == "Secret":
                for name in ("data", "stringData"):
                    if isinstance(value.get(name), dict):
                        covered[name] = dict.fromkeys(value[name], MASK)
            return covered
        if isinstance(value, list):
            return [self._cover(item) for item in value]
        return value
