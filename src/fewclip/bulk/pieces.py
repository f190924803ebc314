"""Pieces of a source: a few hundred images each, described in few words, so that any process can read them by itself."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from fewclip.clip.decode import Source
from fewclip.errors import DataError

PIECE = 256
"""Images per piece, at most: what is done again when a run is killed."""
MAX_BYTES = 1 << 28
"""Bytes of one image in a tar or in Parquet, at most: three for each pixel of the largest image that is decoded."""


class Image(NamedTuple):
    path: str
    """Where it is: its file; TAR/MEMBER; PARQUET#ROW."""
    id: str
    """What its source calls it."""
    load: Callable[[], Source]
    """Gives what `read_image` takes, or raises DataError or OSError."""


@dataclass(frozen=True)
class Files:
    """Image files: `names` below the folder `base`, which may be empty."""

    base: str
    names: list[str]

    def __len__(self) -> int:
        return len(self.names)

    def images(self) -> Iterator[Image]:
        for name in self.names:
            path = os.path.join(self.base, name)
            yield Image(path, name, partial(str, path))


@dataclass(frozen=True)
class Members:
    """Members of a tar: name, offset of the first byte, number of bytes (-1: none, such as a link)."""

    tar: str
    members: list[tuple[str, int, int]]

    def __len__(self) -> int:
        return len(self.members)

    def images(self) -> Iterator[Image]:
        for name, offset, size in self.members:
            path = f"{self.tar}/{name}"
            yield Image(path, _key(name), partial(_cut, self.tar, path, offset, size))


@dataclass(frozen=True)
class Rows:
    """`count` rows of one row group of a Parquet file, from its `first` on, which is row `row` of the file.

    `fewclip.bulk.parquet.RowReader` reads them.
    """

    file: str
    group: int
    first: int
    row: int
    count: int
    image: str
    id: str | None

    def __len__(self) -> int:
        return self.count


Piece: TypeAlias = "Files | Members | Rows"
KINDS: dict[str, Callable[..., Piece]] = {kind.__name__.lower(): kind for kind in (Files, Members, Rows)}


def to_line(piece: Piece) -> bytes:
    """As a line of JSON; in ASCII, so that names that are not UTF-8 keep their bytes."""
    return json.dumps({"kind": type(piece).__name__.lower(), **asdict(piece)}, separators=(",", ":")).encode() + b"\n"


def from_line(line: bytes) -> Piece:
    fields: dict[str, Any] = json.loads(line)
    return KINDS[fields.pop("kind")](**fields)


def check_size(what: str, size: int) -> None:
    """
    Raises:
        DataError: more bytes than an image may have.
    """
    if size > MAX_BYTES:
        raise DataError(f"{what} has {size:,} bytes, more than the {MAX_BYTES:,} allowed: make it smaller.")


def _key(name: str) -> str:
    """WebDataset's key of a member: its name up to the first dot after the last slash."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _cut(tar: str, path: str, offset: int, size: int) -> bytes:
    if size < 0:
        raise DataError(f"{path} is a link or a sparse file, not an image: put the image itself into the tar.")
    check_size(path, size)
    with open(tar, "rb") as file:
        file.seek(offset)
        data = file.read(size)
    if len(data) < size:
        raise DataError(f"{path} is cut off after {len(data)} of {size} bytes: copy the tar again.")
    return data
