"""Forms: which of them are this server's own, and what they hold. Their senders may be anybody.

Next on the way: `runner.dashboard.logins`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

# Bytes of a form, its fields, and seconds in which it has to be there.
LARGEST = 64 * 1024
_MOST_FIELDS, _PATIENCE = 10, 10.0
_TYPE = "application/x-www-form-urlencoded"
_UNREADABLE = "The form cannot be read."


def is_from_here(request: web.Request) -> bool:
    """True if a browser says that one of this server's pages sends the form, or if it is no browser."""
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
    if site is not None and site != "same-origin":
        return False
    try:
        return origin is None or urlsplit(origin)[:2] == (request.scheme, request.host)
    except ValueError:
        return False


async def read(request: web.Request) -> Mapping[str, str]:
    """The fields of a form. Raises HTTPUnsupportedMediaType and what `content` does."""
    if request.body_exists and request.content_type != _TYPE:
        raise web.HTTPUnsupportedMediaType(text=f"A form is sent as {_TYPE}.")
    body = await content(request)
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS))
    except ValueError as error:
        raise web.HTTPBadRequest(text=_UNREADABLE) from error


async def content(request: web.Request) -> bytes:
    """A form as it was sent. Raises HTTPRequestTimeout, HTTPBadRequest and HTTPRequestEntityTooLarge."""
    try:
        async with asyncio.timeout(_PATIENCE):
            return await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout(text="The form was not sent to its end in time.") from None
    except (ValueError, web.RequestPayloadError, HttpProcessingError) as error:
        raise web.HTTPBadRequest(text=_UNREADABLE) from error
