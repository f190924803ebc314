"""Reading untrusted files: only regular ones, of bounded size, and JSON of bounded depth."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

MOST = 256 << 20
"""Bytes of a file that is read as a whole, at most."""


def read_bytes(path: Path, most: int = MOST) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: it is absent or can't be read, is not a regular file (a pipe might never end), or has more than `most` bytes.
    """
    about = os.stat(path)
    if stat.S_ISDIR(about.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if not stat.S_ISREG(about.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    if about.st_size > most:
        raise OSError(errno.EFBIG, f"it has {about.st_size:,} bytes, more than the limit of {most:,}", str(path))
    return path.read_bytes()


def read_text(path: Path, most: int = MOST) -> str:
    """The content of a regular file in UTF-8, with or without a byte order mark.

    Raises:
        OSError: as `read_bytes`.
        UnicodeDecodeError: it is not UTF-8.
    """
    return read_bytes(path, most).decode("utf-8-sig")


def parse_json(data: bytes | str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is not JSON, or nested too deeply.
    """
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; false for names that no file can have."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
