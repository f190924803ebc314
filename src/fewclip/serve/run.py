"""The application on a socket, by uvicorn."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from functools import partial
from ipaddress import ip_address
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from fewclip.errors import SettingsError
from fewclip.serve.connections import Connection, Connections

CONNECTIONS = 500
"""Open connections at one time."""
GRACE = 20
"""Seconds in which requests are finished after a signal to stop."""
LARGEST_HEAD = 32 * 1024
"""Bytes of a request's head."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        SettingsError: the address is not available.
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
    return ip_address(bound.getsockname()[0]).is_loopback


def configure(app: ASGIApp, *, seconds: float, most: int = CONNECTIONS, log_level: str = "warning") -> uvicorn.Config:
    """uvicorn's settings for an application; `seconds` and `most` as of `Connections`.

    `X-Forwarded-…` headers are not believed: nothing here depends on who asks, and the connections are told apart by it.
    """
    plain = uvicorn.Config(app, http="h11", log_config=None)
    plain.load()
    connections = Connections(app, seconds=seconds, most=most)
    return uvicorn.Config(
        connections,
        http=partial(Connection, connections, plain.http_protocol_class),  # type: ignore[arg-type]  # it is only called
        log_level=log_level,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="on",
        h11_max_incomplete_event_size=LARGEST_HEAD,
        timeout_graceful_shutdown=GRACE,
    )


def run(app: ASGIApp, bound: socket.socket, *, seconds: float, ready: Callable[[], None] = lambda: None) -> None:
    """Answer until SIGINT or SIGTERM, then finish the requests that have begun.

    Args:
        app: the application.
        bound: what `listen` returned.
        seconds: time for a head to arrive, and for an answer to be read.
        ready: called once requests that come will be answered.

    Raises:
        SettingsError: the application did not start.
    """
    server = uvicorn.Server(configure(app, seconds=seconds))

    def stop(*_: Any) -> None:
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn handles both while it runs, then repeats what it got
        signal.signal(number, stop)
    ready()  # the socket listens already, so that whoever asks from now on only waits until the application has started
    server.run(sockets=[bound])
    if not server.started:
        raise SettingsError("The server could not start: see the lines above.")


def local_names(host: str, bound: socket.socket) -> set[str]:
    """Names that a server reachable only from this machine answers to."""
    return {"localhost", "127.0.0.1", "::1", host.lower(), str(bound.getsockname()[0])}
