"""A CSV file with the columns path, class and, optionally, split."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from fewclip.data.dataset import Dataset
from fewclip.data.folder import SPLIT_OF
from fewclip.data.paths import check_inside, refuse_absent
from fewclip.errors import DataError
from fewclip.files.read import read_text

Row = tuple[str, str, str]
"""path, class name, split (empty without that column)"""


def read_csv(file: str | Path, split: str = "train") -> Dataset:
    """One split of a CSV file; paths are relative to its folder, classes the sorted names of that split.

    A file without the column split is the same for every split. Other columns are ignored.

    Raises:
        DataError: no such file or columns, an incomplete line, paths that leave the folder or name absent files.
    """
    file = Path(file)
    all_rows = _rows(file)
    rows = [row for row in all_rows if row[2] in ("", split)]
    if not rows:
        splits = ", ".join(sorted({row[2] for row in all_rows}))
        raise DataError(
            f"{file} has no line for the split {split!r}, only for {splits}: add some, or use another split."
        )
    class_of: dict[str, str] = {}
    for path, name, _ in rows:
        if class_of.setdefault(path, name) != name:
            raise DataError(f"{file} lists {path} as {class_of[path]!r} and as {name!r}: give each image one class.")
    keys = [row[0] for row in rows]
    refuse_absent(file.parent, keys, str(file))
    classes = sorted({row[1] for row in rows})
    number = {name: label for label, name in enumerate(classes)}
    return Dataset(
        f"{file.resolve().parent.name}/{file.name}",
        tuple(classes),
        [file.parent / key for key in keys],
        [number[row[1]] for row in rows],
        keys,
    )


def _rows(file: Path) -> list[Row]:
    try:
        text = read_text(file)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise DataError(f"{file} can't be read ({reason}): give a CSV file with the columns path and class.") from error
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        return _parse(file, reader)
    except csv.Error as error:
        raise DataError(f"Line {reader.line_num} of {file} is not valid CSV ({error}): fix it.") from error


def _parse(file: Path, reader: Any) -> list[Row]:
    header = [column.strip().lower() for column in next(reader, [])]
    if "path" not in header or "class" not in header:
        raise DataError(
            f"{file} begins with {','.join(header)[:60]!r}: expected a first line with the columns path,class or "
            "path,class,split."
        )
    columns = [header.index(name) if name in header else None for name in ("path", "class", "split")]
    rows = []
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        where = f"Line {reader.line_num} of {file}"
        if any(column is not None and (column >= len(cells) or not cells[column].strip()) for column in columns):
            raise DataError(f"{where} lacks a path, a class or a split: fill it in, or remove the line.")
        path, name, split = ("" if column is None else cells[column].strip() for column in columns)
        rows.append((check_inside(path, where), name, _split(split, where)))
    if not rows:
        raise DataError(f"{file} lists no images: expected a line with path and class for each.")
    return rows


def _split(word: str, where: str) -> str:
    if word and word.lower() not in SPLIT_OF:
        raise DataError(f"{where} has the split {word!r}: expected train, val or test.")
    return SPLIT_OF.get(word.lower(), "")
