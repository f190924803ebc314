"""Parquet files with images: as bytes, as Hugging Face's {bytes, path}, or as paths."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from typing import Any

from fewclip.bulk.arrow import arrow
from fewclip.bulk.pieces import PIECE, Image, Rows, check_size
from fewclip.clip.decode import Source
from fewclip.data.paths import check_inside
from fewclip.errors import DataError

NAMES = ("image", "img", "bytes", "jpg", "jpeg", "png", "webp", "image_bytes", "path", "file", "filename", "file_name")
"""Columns that are taken for the images, in this order, where several could be."""
AT_ONCE = 16
"""Rows that are read at a time."""
BUFFER = 1 << 20
"""Bytes of a column that are read at a time: without it Arrow reads a whole row group."""


def row_pieces(path: str, image: str | None, id: str | None) -> Iterator[Rows]:
    """Pieces of a Parquet file, each within one row group. `image` and `id` name columns.

    Raises:
        DataError: it is not a Parquet file, or has no such columns.
    """
    with _open(path) as file:
        image = _image_column(path, file.schema_arrow, image)
        if id is not None and id not in file.schema_arrow.names:
            raise DataError(f"{path} has no column {id!r}: choose from {', '.join(file.schema_arrow.names)}.")
        row = 0
        for group in range(file.metadata.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            for first in range(0, rows, PIECE):
                yield Rows(path, group, first, row + first, min(PIECE, rows - first), image, id)
            row += rows


class RowReader:
    """Reads pieces of Parquet files. One that follows another in the same row group resumes where that ended, so that a
    worker that is given pieces in order decodes each row once."""

    def __init__(self) -> None:
        self._group: tuple[str, int] | None = None
        self._next = 0
        self._stream: Iterator[tuple[Any, Any]] = iter(())

    def images(self, piece: Rows) -> Iterator[Image]:
        """The images of a piece. Where the file can't be read, each is one whose `load` raises the reason."""
        row = piece.row
        try:
            for value, id in self._values(piece):
                yield _image(piece, row, value, id)
                row += 1
        except (OSError, arrow().ArrowException) as error:
            reason = str(error).split("\n")[0]
            for lost in range(row, piece.row + piece.count):
                message = f"Row {lost} of {piece.file} can't be read ({reason}): the file is damaged; copy it again."
                yield Image(f"{piece.file}#{lost}", str(lost), partial(_refuse, message))

    def _values(self, piece: Rows) -> Iterator[tuple[Any, Any]]:
        """Image and id of each row."""
        group = piece.file, piece.group
        if self._group != group or self._next > piece.first:
            self._next, self._stream = 0, _stream(piece)
        self._group = None  # until the piece is read: a stream that failed, or was left, is not resumed
        for number in range(self._next, piece.first + piece.count):
            value = next(self._stream, None)
            if value is None:
                raise OSError("it has fewer rows than its metadata states")
            self._next += 1
            if number >= piece.first:
                yield value
        self._group = group


def _stream(piece: Rows) -> Iterator[tuple[Any, Any]]:
    """Image and id of every row of the piece's row group."""
    columns = list(dict.fromkeys([piece.image, *([piece.id] if piece.id else [])]))
    with _open(piece.file) as file:
        for batch in file.iter_batches(AT_ONCE, row_groups=[piece.group], columns=columns, use_threads=False):
            images = batch.column(piece.image)
            ids = batch.column(piece.id) if piece.id else None
            for row in range(batch.num_rows):
                yield images[row].as_py(), None if ids is None else ids[row].as_py()


def _image(piece: Rows, row: int, value: Any, id: Any) -> Image:
    where, folder = f"{piece.file}#{row}", os.path.dirname(piece.file)
    stored: Any
    data: Any
    stored, data = (value.get("path"), value.get("bytes")) if isinstance(value, dict) else (None, value)
    if piece.id is None:
        id = stored or (data if isinstance(data, str) else None)
    name = str(row if id is None else id)
    if isinstance(data, str) and data:
        path = os.path.join(folder, data)
        return Image(path, name, partial(str, path))
    if data is None and stored:
        return Image(where, name, partial(_below, piece.file, folder, stored))
    return Image(where, name, partial(_bytes, where, data))


def _bytes(where: str, data: bytes | None) -> Source:
    if not data:
        raise DataError(f"{where} holds no image: its cell is empty.")
    check_size(where, len(data))
    return data


def _below(file: str, folder: str, stored: str) -> Source:
    return os.path.join(folder, check_inside(stored, file))


def _refuse(message: str) -> Source:
    raise DataError(message)


def _open(path: str) -> Any:
    try:
        return arrow().parquet.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER)
    except (OSError, arrow().ArrowException) as error:
        raise DataError(f"{path} can't be read as Parquet ({str(error).splitlines()[0]}): copy it again.") from error


def _image_column(path: str, schema: Any, given: str | None) -> str:
    fitting = [field.name for field in schema if _holds_images(field.type)]
    if given is not None:
        if given in fitting:
            return given
        raise DataError(
            f"{path} has no column {given!r} of bytes, paths or {{bytes, path}}: "
            f"choose from {', '.join(fitting) or 'other files'}."
        )
    surely = [name for name in fitting if not _is_text(schema.field(name).type)]
    for names in (surely, fitting):
        chosen = names[0] if len(names) == 1 and names is surely else next((n for n in NAMES if n in names), None)
        if chosen:
            return chosen
    raise DataError(
        f"{path} has the columns {', '.join(f'{f.name} ({f.type})' for f in schema)}, and it is not clear which holds "
        "the images: name it with --column."
    )


def _is_text(kind: Any) -> bool:
    types = arrow().types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _holds_images(kind: Any) -> bool:
    types = arrow().types
    if types.is_struct(kind):
        return any(kind.field(n).name == "bytes" for n in range(kind.num_fields))
    return bool(_is_text(kind) or types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))
