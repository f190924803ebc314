"""What every request goes through: the token, the host it asks for, its size, the time its body takes, the headers of its answer."""

from __future__ import annotations

import asyncio
import hmac
import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from fastapi.security import HTTPBearer
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fewclip.errors import SettingsError
from fewclip.serve.limits import Limits, Refused, busy
from fewclip.serve.metrics import Metrics

KNOWN = frozenset(
    {"/", "/page.css", "/page.js", "/docs", "/openapi.json", "/healthz", "/predict", "/classes", "/metrics"}
)
"""Paths that are counted by name; all others are "other", so that nobody can make counters without end."""
VARIABLE = "FEWCLIP_TOKEN"
SHORTEST = 16
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def find_token(file: Path | None) -> str | None:
    """The bearer token, from a file or else from the environment, where other users of the machine can't see it.

    Raises:
        SettingsError: an unreadable file, or a token that is too short or has other characters than visible ASCII.
    """
    if file is None and VARIABLE not in os.environ:
        return None
    try:
        token = (os.environ[VARIABLE] if file is None else file.read_text(encoding="utf-8")).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"The token file {file} can't be read: {error}.") from error
    if len(token) < SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise SettingsError(
            f"The token in {file or '$' + VARIABLE} has {len(token)} characters; expected at least "
            f"{SHORTEST}, all of visible ASCII without blanks."
        )
    return token


class Token(HTTPBearer):
    """A bearer token that requests must send, as a dependency of a route."""

    def __init__(self, token: str) -> None:
        super().__init__(scheme_name="token", auto_error=False)
        self._token = token.encode()

    async def __call__(self, request: HTTPConnection) -> None:
        """Raises: Refused, 401."""
        given = await super().__call__(request)
        # Compared in a time that does not depend on how much of it is right
        right = hmac.compare_digest(b"" if given is None else given.credentials.encode("utf-8", "replace"), self._token)
        if not right:
            raise Refused(
                401, "This server needs a token: Authorization: Bearer TOKEN.", headers={"WWW-Authenticate": "Bearer"}
            )


class Guard:
    """ASGI middleware that counts and bounds requests: a body that is too large is a 413, one that is too slow a 408.

    `hosts`: names that the server answers to; None: any. Without them a page of another site could reach a server that
    listens only on this machine, under a name that resolves to this machine's address.
    """

    def __init__(self, app: ASGIApp, *, limits: Limits, metrics: Metrics, hosts: Collection[str] | None) -> None:
        self.app, self.limits, self.metrics = app, limits, metrics
        self.hosts = None if hosts is None else {host.lower() for host in hosts}
        self.active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in KNOWN else "other"

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.metrics.requests.labels(path, str(message["status"])).inc()
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        refused = self._refusal(scope)
        if refused is not None:
            problem = JSONResponse({"error": refused.detail, "images": []}, refused.status_code, refused.headers)
            await problem(scope, receive, answer)
            return
        self.active += 1
        try:
            await self.app(scope, _bounded(receive, self.limits), answer)
        finally:
            self.active -= 1

    def _refusal(self, scope: Scope) -> Refused | None:
        headers = Headers(scope=scope)
        host = _name(headers.get("host", ""))
        if self.hosts is not None and host not in self.hosts:
            return Refused(
                403, f"This server does not answer to {host[:60]!r}: start it with --allow-host, or with a token."
            )
        if scope["method"] not in ("GET", "HEAD") and headers.get("sec-fetch-site") == "cross-site":
            return Refused(403, "This server refuses requests from pages of other sites.")
        length = headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and int(length[:15]) > self.limits.max_body:
            return _too_large(self.limits)
        if scope["method"] == "POST" and self.active >= self.limits.max_requests:
            return busy(f"{self.active} requests are already being answered, which is the limit: try again.")
        return None


def _name(host: str) -> str:
    """A Host header without the port."""
    bare = host.strip().lower()
    return bare[1:].partition("]")[0] if bare.startswith("[") else bare.partition(":")[0]


def _bounded(receive: Receive, limits: Limits) -> Receive:
    """`receive`, which raises `Refused` once a body has too many bytes or takes too long."""
    until = time.monotonic() + limits.read_seconds
    total, complete = 0, False

    async def bounded() -> Any:
        nonlocal total, complete
        if complete:
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), max(0.0, until - time.monotonic()))
        except TimeoutError:
            raise Refused(
                408,
                f"The request did not arrive within {limits.read_seconds:g} seconds.",
                headers={"Connection": "close"},
            ) from None
        complete = message["type"] != "http.request" or not message.get("more_body", False)
        total += len(message.get("body", b""))
        if total > limits.max_body:
            raise _too_large(limits)
        return message

    return bounded


def _too_large(limits: Limits) -> Refused:
    return Refused(
        413, f"The request has more than the {limits.max_body:,} bytes allowed.", headers={"Connection": "close"}
    )
