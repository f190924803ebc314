"""What is written of an image: the columns, the parts that workers make, and the one file that they become."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from fewclip.bulk.arrow import arrow
from fewclip.errors import SettingsError

ROW_GROUP = 1 << 16
"""Rows per row group of the file, at most; fewer if they have `GROUP_BYTES`."""
GROUP_BYTES = 1 << 25


def schema(probabilities: bool) -> Any:
    """path, id, error, class, probability, top; and all probabilities on request."""
    pa = arrow()
    text, share = pa.string(), pa.float32()
    ranked = pa.list_(pa.struct([pa.field("class", text), pa.field("probability", share)]))
    fields = [
        pa.field("path", text, nullable=False),
        pa.field("id", text, nullable=False),
        pa.field("error", text),
        pa.field("class", text),
        pa.field("probability", share),
        pa.field("top", ranked),
    ]
    return pa.schema(fields + ([pa.field("probabilities", pa.list_(share))] if probabilities else []))


def encode(
    paths: Sequence[str],
    ids: Sequence[str],
    errors: Sequence[str | None],
    shares: np.ndarray,
    classes: Sequence[str],
    top: int,
    probabilities: bool,
) -> bytes:
    """A part as Parquet. `shares` (images without an error, classes) holds their probabilities, in order."""
    pa = arrow()
    best = np.argsort(-shares, axis=1, kind="stable")[:, :top]
    names = [readable(name) for name in classes]
    # Images with an error have no row in `shares`, so the place of an image there is not its place in the part.
    rows = iter(range(len(shares)))
    places = [None if error is not None else next(rows) for error in errors]

    def column(of: Callable[[int], Any]) -> list[Any]:
        return [None if place is None else of(place) for place in places]

    def ranked(place: int) -> list[dict[str, Any]]:
        return [{"class": names[i], "probability": shares[place, i]} for i in best[place]]

    columns: list[Any] = [
        [readable(path) for path in paths],
        [readable(id) for id in ids],
        [None if error is None else readable(error) for error in errors],
        column(lambda place: names[best[place, 0]]),
        column(lambda place: shares[place, best[place, 0]]),
        column(ranked),
    ]
    if probabilities:
        columns.append(column(lambda place: shares[place]))
    wanted = schema(probabilities)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, wanted, strict=True)]
    out = BytesIO()
    arrow().parquet.write_table(pa.Table.from_arrays(arrays, schema=wanted), out)
    return out.getvalue()


def readable(text: str) -> str:
    r"""As UTF-8 can hold it: bytes of a name that are not UTF-8 become \xff."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()


def rows_of(part: Path) -> int | None:
    """How many rows a part has; None if it is not whole."""
    try:
        return int(arrow().parquet.read_metadata(part).num_rows)
    except (OSError, arrow().ArrowException):
        return None


def join(parts: Iterable[Path], out: Path, ending: str, about: dict[str, Any], probabilities: bool) -> tuple[int, int]:
    """Write the rows of all parts, in order, as .parquet, .csv or .jsonl; `about` goes into Parquet's metadata.

    Returns the number of rows, and of those with an error. One part is in memory at a time, or one row group.
    """
    rows = errors = 0
    with WRITERS[ending](out, schema(probabilities), about) as write:
        for part in parts:
            table = arrow().parquet.ParquetFile(part).read()
            rows += table.num_rows
            errors += table.num_rows - table.column("error").null_count
            write(table)
    return rows, errors


Write = Callable[[Any], None]


@contextmanager
def _as_parquet(out: Path, columns: Any, about: dict[str, Any]) -> Iterator[Write]:
    pa = arrow()
    waiting: list[Any] = []
    metadata = {f"fewclip.{key}": json.dumps(value, ensure_ascii=False) for key, value in about.items()}

    def flush() -> None:
        if waiting:
            whole = pa.concat_tables(waiting).combine_chunks()
            writer.write_table(whole, row_group_size=len(whole))
            waiting.clear()

    def write(table: Any) -> None:
        waiting.append(table)
        if sum(t.num_rows for t in waiting) >= ROW_GROUP or sum(t.nbytes for t in waiting) >= GROUP_BYTES:
            flush()

    with out.open("wb") as file:
        with arrow().parquet.ParquetWriter(file, columns.with_metadata(metadata)) as writer:
            yield write
            flush()
        _to_disk(file)


@contextmanager
def _as_csv(out: Path, columns: Any, about: dict[str, Any]) -> Iterator[Write]:
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns.names)

        def write(table: Any) -> None:
            for row in table.to_pylist():
                writer.writerow([json.dumps(v, ensure_ascii=False) if isinstance(v, list) else v for v in row.values()])

        yield write
        _to_disk(file)


@contextmanager
def _as_jsonl(out: Path, columns: Any, about: dict[str, Any]) -> Iterator[Write]:
    with out.open("w", encoding="utf-8") as file:

        def write(table: Any) -> None:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())

        yield write
        _to_disk(file)


def _to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


WRITERS: dict[str, Callable[[Path, Any, dict[str, Any]], AbstractContextManager[Write]]] = {
    ".parquet": _as_parquet,
    ".csv": _as_csv,
    ".jsonl": _as_jsonl,
}


def ending_of(out: Path) -> str:
    """The ending of the output, which chooses its format.

    Raises:
        SettingsError: an ending of no format.
    """
    ending = out.suffix.lower()
    if ending not in WRITERS:
        raise SettingsError(f"-o is {out}, but a file that ends in {', '.join(WRITERS)} is expected.")
    return ending
