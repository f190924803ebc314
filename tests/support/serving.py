"""For tests of the server: images, hostile and not, and a server on a port of its own."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import uvicorn
from pictures import COLOURS, picture
from PIL import Image

from fewclip import FewShotClassifier
from fewclip.clip.model import CLIP
from fewclip.serve.run import CONNECTIONS, configure, listen, url

SECRET = "a-secret-of-tests-0123456789"


def fitted(backbone: CLIP, method: str = "mmrl", **settings: Any) -> FewShotClassifier:
    """A classifier of three colours."""
    pairs = [(picture(c, 10 * n + i), name) for n, (name, c) in enumerate(COLOURS.items()) for i in range(4)]
    own = {"epochs": 2, "rep_dim": 8, "lr": 0.01} if method.startswith("mmrl") else {}
    return FewShotClassifier(method, backbone, shots=None, **(own | settings)).fit(pairs)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png(colour: str = "red", seed: int = 0) -> bytes:
    return encoded(picture(COLOURS[colour], seed))


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


@contextmanager
def served(app: Any, seconds: float = 20.0, most: int = CONNECTIONS) -> Iterator[str]:
    """The address of the application, served in a thread as `fewclip serve` does it."""
    bound: socket.socket = listen("127.0.0.1", 0)
    server = uvicorn.Server(configure(app, seconds=seconds, most=most, log_level="critical"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        thread.join(0.01)
    try:
        yield url(bound)
    finally:
        server.should_exit = True
        thread.join(20)
