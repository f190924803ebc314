"""How many connections there are, and how long one may keep the server waiting.

uvicorn limits idle connections (`timeout_keep_alive`) and the size of a head, but not the time in which a head arrives or an
answer is read. Its option `http` takes any `asyncio.Protocol`: ours holds uvicorn's and passes everything on to it, so that it
needs nothing but asyncio's own interface. That a request's head is complete is known from the application: it is called then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send

Peer = tuple[str, int]


class Connections:
    """An ASGI application around another, and the connections over which it is asked.

    Args:
        app: the application.
        seconds: time for the head of a request to arrive, and for an answer to be read; then the connection is cut.
        most: open connections; further ones are closed at once, so that files and sockets remain for the others.
    """

    def __init__(self, app: ASGIApp, *, seconds: float, most: int) -> None:
        self.app, self.seconds, self.most = app, seconds, most
        self.open: dict[Peer, Connection] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = self.open.get(scope.get("client") or ("", 0))
        if connection is None:  # not a request, but the server's start or end; or the client has just left
            await self.app(scope, receive, send)
            return

        async def timed(message: Message) -> None:  # uvicorn waits here for a client that does not read
            timer = connection.cut_later()
            try:
                await send(message)
            finally:
                timer.cancel()

        with connection.answering():
            await self.app(scope, receive, timed)


class Connection(asyncio.Protocol):
    """One connection, for uvicorn's option `http`: its protocol `server`, which is made with what uvicorn gives, within bounds.

    While no request is being answered, a clock runs that ends in cutting the connection.
    """

    def __init__(self, connections: Connections, server: Callable[..., asyncio.Protocol], **given: Any) -> None:
        self.connections, self.server = connections, server(**given)
        self.peer: Peer = ("", 0)
        self.requests = 0  # being answered; a client may send the next before the last is done
        self.clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        if not peer or len(self.connections.open) >= self.connections.most:
            self.transport.abort()
            return
        self.peer = (str(peer[0]), int(peer[1]))  # as uvicorn names it to the application
        self.connections.open[self.peer] = self
        self.server.connection_made(transport)
        self.clock = self.cut_later()

    def connection_lost(self, error: Exception | None) -> None:
        if self.clock is not None:
            self.clock.cancel()
        if self.is_open:  # else it was one too many
            del self.connections.open[self.peer]
            self.server.connection_lost(error)

    @property
    def is_open(self) -> bool:
        return self.connections.open.get(self.peer) is self

    def data_received(self, data: bytes) -> None:
        self.server.data_received(data)

    def eof_received(self) -> bool | None:
        return self.server.eof_received()

    def pause_writing(self) -> None:
        self.server.pause_writing()

    def resume_writing(self) -> None:
        self.server.resume_writing()

    def cut_later(self) -> asyncio.TimerHandle:
        """Cut the connection after the allowed seconds, unless the timer is cancelled. What is still to be sent is dropped: to
        wait for it would be to wait for the client."""
        return asyncio.get_running_loop().call_later(self.connections.seconds, self.transport.abort)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Stop the clock; restart it when the last request is answered."""
        self.requests += 1
        if self.clock is not None:
            self.clock.cancel()
            self.clock = None
        try:
            yield
        finally:
            self.requests -= 1
            if not self.requests and self.is_open:  # also while it is closing: it may have unread answers to send
                self.clock = self.cut_later()
