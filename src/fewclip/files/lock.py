"""An output folder: one writer at a time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fewclip.errors import OutputError
from fewclip.files.write import lock, make_folder

LOCK = ".lock"
"""Of a folder that is being written to; deleted with its writer's last act, and without meaning when that was killed."""

_held = threading.local()


@contextmanager
def only_writer(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Keep others from writing to a folder, which is made where it is missing.

    May be nested within a thread. The lock ends with its process, however that ends. `patience`: seconds to wait for another.

    Raises:
        OutputError: another writes there, or the folder can't be used.
    """
    mine: set[Path] = _held.__dict__.setdefault("folders", set())
    key = folder.resolve()
    if key in mine:
        yield
        return
    until = time.monotonic() + patience
    new = not folder.exists()
    try:
        while (descriptor := _try(folder)) is None:
            if time.monotonic() >= until:
                raise OutputError(
                    f"Another process is writing to {folder}: wait until it has ended, or give another output folder."
                )
            time.sleep(0.02)
    except OSError as error:
        raise OutputError(
            f"The output folder {folder} can't be used: {error.strerror or error}. Choose one that you may write to."
        ) from error
    mine.add(key)
    try:
        yield
    finally:
        mine.discard(key)
        with suppress(OSError):
            os.unlink(folder / LOCK)
        os.close(descriptor)
        if new:
            with suppress(OSError):  # which is so where something was written
                os.rmdir(folder)


def _try(folder: Path) -> int | None:
    """A descriptor that has the folder locked; None if another has."""
    while True:
        make_folder(folder)
        try:
            descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:  # its last writer had made the folder, and deleted it just now
            continue
        if lock(descriptor) is False:
            os.close(descriptor)
            return None
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # its last writer deleted the file just now
