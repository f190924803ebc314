"""A Ray cluster to work on."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fewclip.errors import SettingsError


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """The module `ray`, connected to the cluster at `address` ("auto": that of this machine, "local": a new one here).

    An existing connection is used, and kept.

    Raises:
        SettingsError: Ray is not installed, or no cluster answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise SettingsError(
            "The executor ray needs Ray, which is not installed: pip install 'fewclip[ray]'."
        ) from error
    new = not ray.is_initialized()
    if new:
        _connect(ray, address)
    try:
        yield ray
    finally:
        if new:
            ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    place = re.fullmatch(r"(?:ray://)?([^:/]+):(\d+)", address)
    try:
        if place:  # ask first: Ray would wait for minutes
            socket.create_connection((place[1], int(place[2])), timeout=10).close()
        options = {"include_dashboard": False} if address == "local" else {}
        ray.init(address=address, log_to_driver=False, **options)
    except (OSError, RuntimeError, ValueError) as error:
        raise SettingsError(
            f"No Ray cluster answers at {address!r} ({error}): start one with `ray start --head`, or give "
            "--ray-address local."
        ) from error
