"""The application on a socket, by uvicorn."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from fewclip.errors import SettingsError

CONNECTIONS = 500
"""Connections at one time; further ones are closed at once, so that files and sockets remain for those."""
GRACE = 20
"""Seconds in which requests are finished after a signal to stop."""


def listen(host: str, port: int) -> socket.socket:
    """A bound socket.

    Raises:
        SettingsError: the address can't be had.
    """
    if not 0 <= port <= 65535:
        raise SettingsError(f"Can't serve on port {port}: choose another --host or --port, up to 65535.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen(1024)
        except OSError:
            bound.close()
            raise
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(
            f"Can't serve on {host}, port {port} ({reason}): choose another --host or --port."
        ) from error
    return bound


def url(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_local(bound: socket.socket) -> bool:
    """Whether only this machine can reach it."""
    host = str(bound.getsockname()[0])
    return host.startswith("127.") or host == "::1"


def run(app: FastAPI, bound: socket.socket, *, head_seconds: float, ready: Callable[[], None] = lambda: None) -> None:
    """Answer until SIGINT or SIGTERM, then finish what was begun."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        http=patient(head_seconds),
        ws="none",
        lifespan="on",
        h11_max_incomplete_event_size=32 * 1024,
        timeout_graceful_shutdown=GRACE,
    )
    server = Announcing(config, ready)

    def stop(*_: Any) -> None:
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn handles both while it runs, then repeats what it got
        signal.signal(number, stop)
    server.run(sockets=[bound])
    if not server.started:
        raise SettingsError("The server could not start; the lines above say why.")


class Announcing(uvicorn.Server):
    """Says when it answers."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()


def local_names(host: str, bound: socket.socket) -> set[str]:
    """Names under which a server that only this machine can reach is asked for."""
    return {"localhost", "127.0.0.1", "::1", host.lower(), str(bound.getsockname()[0])}


def patient(seconds: float, most: int = CONNECTIONS) -> type[H11Protocol]:
    """uvicorn's protocol, which hangs up where the head of a request takes longer than so many seconds, and on more than
    so many connections."""

    class Patient(H11Protocol):
        _head: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > most:
                transport.close()
            else:
                self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self._head is not None:
                self._head.cancel()

        def _watch(self) -> None:
            """Start the clock where no request is being answered, stop it where one is."""
            busy = self.cycle is not None and not self.cycle.response_complete
            if busy and self._head is not None:
                self._head.cancel()
                self._head = None
            elif not busy and self._head is None:
                self._head = self.loop.call_later(seconds, self._hang_up)

        def _hang_up(self) -> None:
            self._head = None
            busy = self.cycle is not None and not self.cycle.response_complete
            if not busy and not self.transport.is_closing():
                self.transport.close()

    return Patient
