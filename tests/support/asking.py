"""Asks an ASGI application without a network, headers and bodies as they are given."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from typing import Any


class Asker:
    """Runs an application with its lifespan in a thread; called with method, path, headers, body."""

    def __init__(self, app: Any, pieces: int = 2) -> None:
        self.app, self.pieces = app, pieces
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self) -> Asker:
        self.thread.start()
        self.context = self.app.router.lifespan_context(self.app)
        self._wait(self.context.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wait(self.context.__aexit__(kind, value, trace))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(20)

    def _wait(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    def __call__(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer.

        Raises:
            Exception: whatever the application let through.
        """
        size = max(1, -(-len(body) // self.pieces))
        parts = [body[i : i + size] for i in range(0, len(body), size)] or [b""]
        status, said = 0, b""
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()],
        }  # fmt: skip

        async def receive() -> dict[str, Any]:
            if parts:
                return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            nonlocal status, said
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                said += message.get("body", b"")

        self._wait(self.app(scope, receive, send))
        return status, said
