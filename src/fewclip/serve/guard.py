"""What stands between the network and the application: the token, sizes and times of requests, headers of answers."""

from __future__ import annotations

import asyncio
import hmac
import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fewclip.errors import SettingsError
from fewclip.serve.limits import Limits, Refused, busy
from fewclip.serve.metrics import Metrics

OPEN = frozenset({"/", "/page.css", "/page.js", "/docs", "/openapi.json", "/healthz"})
"""Paths that need no token: they say nothing of the adapter."""
KNOWN = OPEN | {"/predict", "/classes", "/metrics"}
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
    """The bearer token, from a file or else from the environment; it never stands in the command line.

    Raises:
        SettingsError: an unreadable file, or a token that is no secret.
    """
    place = f"${VARIABLE}" if file is None else str(file)
    if file is None:
        if VARIABLE not in os.environ:
            return None
        token = os.environ[VARIABLE].strip()
    else:
        try:
            token = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"The token file {file} can't be read: {error}.") from error
    if len(token) < SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise SettingsError(
            f"The token in {place} has {len(token)} characters or odd ones: expected at least {SHORTEST} of ASCII, no blanks."
        )
    return token


class Guard:
    """ASGI middleware. Counts and bounds requests; a body that is too large or comes too slowly is a 413 or 408.

    `hosts`: names under which the server may be asked for; None: any. A page of another site could else reach a server
    that only this machine can reach, by a name that it has let point here.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: Limits,
        metrics: Metrics,
        token: str | None = None,
        hosts: Collection[str] | None = None,
    ) -> None:
        self.app, self.limits, self.metrics = app, limits, metrics
        self.hosts = None if hosts is None else {host.lower() for host in hosts}
        self._token = None if token is None else token.encode()
        self.active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in KNOWN else "other"

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.metrics.requests.add(1, path, str(message["status"]))
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
                403, f"This server is not asked for as {host[:60]!r}: start it with --allow-host, or with a token."
            )
        if scope["method"] not in ("GET", "HEAD") and headers.get("sec-fetch-site") == "cross-site":
            return Refused(403, "This server takes nothing that a page of another site sends.")
        if scope["path"] not in OPEN and not self._allowed(headers):
            return Refused(
                401, "This server needs a token: Authorization: Bearer TOKEN.", headers={"WWW-Authenticate": "Bearer"}
            )
        length = headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and int(length[:15]) > self.limits.max_body:
            return _too_large(self.limits)
        if scope["method"] == "POST" and self.active >= self.limits.max_requests:
            return busy(f"{self.active} requests are being answered, which is the most at one time: try again.")
        return None

    def _allowed(self, headers: Headers) -> bool:
        if self._token is None:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given.strip().encode("utf-8", "replace"), self._token)
        return right and scheme.lower() == "bearer"


def _name(host: str) -> str:
    """A Host header without the port."""
    bare = host.strip().lower()
    return bare[1:].partition("]")[0] if bare.startswith("[") else bare.partition(":")[0]


def _bounded(receive: Receive, limits: Limits) -> Receive:
    """`receive` that gives no more than so many bytes, in no more than so many seconds."""
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
