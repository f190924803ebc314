"""WebDataset's tars: where in them the images are, without unpacking anything.

Only the headers are read here; the images are read later, each from its place, by the worker that predicts them.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast

from fewclip.bulk.pieces import PIECE, Members
from fewclip.data.folder import ENDINGS
from fewclip.errors import DataError

BLOCK = 512
MAX_HEADER = 1 << 20
"""Bytes of an extended header (a long name), at most."""


def tar_pieces(path: str) -> Iterator[Members]:
    """The members of a tar that are images by their ending, hidden ones left out, in order.

    Raises:
        DataError: the tar is compressed, damaged or cut off.
    """
    members: list[tuple[str, int, int]] = []
    for member in _members(path):
        file = PurePosixPath(member.name)
        if file.suffix.lower() not in ENDINGS or file.name.startswith(".") or member.isdir():
            continue
        plain = member.isreg() and not member.issparse()
        members.append((member.name, member.offset_data, member.size if plain else -1))
        if len(members) == PIECE:
            yield Members(path, members)
            members = []
    if members:
        yield Members(path, members)


def _members(path: str) -> Iterator[tarfile.TarInfo]:
    try:
        with open(path, "rb") as raw:
            if raw.read(2) == b"\x1f\x8b":
                raise DataError(f"{path} is compressed, so its images can't be read one by one: unpack it with gunzip.")
            raw.seek(0)
            if os.fstat(raw.fileno()).st_size == 0:
                raise tarfile.ReadError("it is empty")
            with tarfile.open(fileobj=cast(BinaryIO, _Headers(raw)), mode="r:") as tar:
                while (member := tar.next()) is not None:
                    cast(Any, tar).members.clear()  # otherwise tarfile keeps every one
                    yield member
                end = tar.offset
            raw.seek(end)
            if raw.read(BLOCK).strip(b"\0"):
                raise tarfile.ReadError(f"no header at byte {end:,}")
    except (tarfile.TarError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"The tar {path} can't be read ({reason}): it is damaged or cut off; copy it again, or leave it out."
        ) from error


class _Headers:
    """A file from which tarfile can't read more than a header at a time."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self.file.read(size)
