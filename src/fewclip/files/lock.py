"""An output folder: one writer at a time."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from fewclip.errors import OutputError
from fewclip.files.write import make_folder

LOCK = ".lock"
"""In a folder that is being written to. Its writer deletes it at the end; one left by a killed writer means nothing."""
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What file systems answer that have no locks, such as some network folders."""


@contextmanager
def only_writer(folder: Path, patience: float = 0.0, *, output: Path | None = None) -> Iterator[None]:
    """Keep others from writing to a folder, which is created if it is missing.

    May be nested within a thread. The lock ends with its process, however that ends. `patience`: seconds to wait for
    another writer. `output`: what the errors name instead of the folder.

    Raises:
        OutputError: another process writes there, or the folder can't be used.
    """
    output = output or folder
    new = not os.path.exists(folder)
    # One object per path makes the lock reentrant; its state is per thread, so other threads are kept out as well.
    lock = FileLock(os.path.join(os.path.realpath(folder), LOCK), is_singleton=True)
    try:
        _acquire(lock, folder, patience)
    except Timeout:
        raise OutputError(
            f"Another process is writing to {output}: wait until it ends, or give another output."
        ) from None
    except OSError as error:
        raise OutputError(
            f"The output {output} can't be used: {error.strerror or error}. Choose one that you may write to."
        ) from error
    try:
        yield
    finally:
        try:
            if lock.lock_counter <= 1:
                # Deleted while it is held: whoever waits for it sees that the file is gone, and begins again with a new one.
                with suppress(OSError):
                    os.unlink(folder / LOCK)
        finally:
            lock.release()
        if new:
            with suppress(OSError):  # the folder stays if anything was written
                os.rmdir(folder)


def _acquire(lock: FileLock, folder: Path, patience: float) -> None:
    while True:
        make_folder(folder)
        try:
            lock.acquire(timeout=patience, poll_interval=0.02)
        except FileNotFoundError:  # the last writer had created the folder, and deleted it just now
            continue
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        return
