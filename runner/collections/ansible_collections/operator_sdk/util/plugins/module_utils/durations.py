"""Durations as Go writes them."""

from __future__ import annotations

import re

_DURATION = re.compile(r"[+]?(?:(?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+|0")


def check(text: str) -> str:
    """The text itself, if it is a duration from 0. ValueError, with what was expected, if not."""
    if not _DURATION.fullmatch(text):
        raise ValueError("%r is no duration; write it as 30s, 5m, 1h30m or 10h" % text)
    return text
