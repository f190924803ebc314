"""The pieces of a source, numbered, in a file: a process finds the piece that it is to do by its offset there."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from fewclip.bulk.pieces import Piece, from_line, to_line
from fewclip.bulk.sources import Sources, stamp
from fewclip.errors import DataError, OutputError


@dataclass(frozen=True)
class Plan:
    path: Path
    places: array[int]
    """Offset of each piece's line."""
    counts: array[int]
    """Images of each piece."""
    digest: str
    """Checksum of the names, sizes and times of all files."""

    @property
    def images(self) -> int:
        return sum(self.counts)

    def __len__(self) -> int:
        return len(self.places)


def write_plan(path: Path, sources: Sources) -> Plan:
    """Write every piece of the sources.

    Raises:
        DataError: no images, or a source that can't be read.
        OutputError: the place can't be written to.
    """
    places, counts, digest = array("Q"), array("I"), sha256()
    try:
        with path.open("wb") as file:
            for piece in _pieces(sources):
                line = to_line(piece)
                places.append(file.tell())
                counts.append(len(piece))
                digest.update(line + json.dumps(stamp(piece)).encode())
                file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OutputError(f"Could not write {path}: {error.strerror or error}. Choose a place with room.") from error
    if not places:
        raise DataError("The sources that were given contain no images.")
    return Plan(path, places, counts, digest.hexdigest())


def read_piece(path: str, place: int) -> Piece:
    with open(path, "rb") as file:
        file.seek(place)
        return from_line(file.readline())


def _pieces(sources: Sources) -> Iterator[Piece]:
    """The pieces. A source that can't be read is a DataError, so that it is not taken for a plan that can't be written."""
    try:
        yield from sources.pieces()
    except OSError as error:
        raise DataError(f"{error.filename or 'A source'} can't be read: {error.strerror or error}.") from error
