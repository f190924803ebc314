"""From what is named on the command line to pieces: folders, globs, lists, tars, Parquet, images."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import chain, groupby, islice, product
from pathlib import Path
from typing import Any

import numpy as np

from fewclip.bulk.parquet import row_pieces
from fewclip.bulk.pieces import PIECE, Files, Members, Piece
from fewclip.bulk.tars import tar_pieces
from fewclip.data.folder import ENDINGS
from fewclip.errors import DataError

TAR, PARQUET, LIST = (".tar",), (".parquet", ".pq"), (".txt",)
PACKED = (".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst", ".zip")


@dataclass(frozen=True)
class Source:
    """Image files below a folder, which can be listed again and again; or one file that holds many images."""

    base: str = ""
    names: Callable[[], Iterable[str]] = tuple
    distinct: bool = True
    """No name occurs twice."""
    holder: str | None = None


class Sources:
    """All that was named, in order.

    Raises:
        DataError: something that does not exist, can't be used, or holds no images.
    """

    def __init__(
        self,
        named: Sequence[str],
        *,
        column: str | None = None,
        id_column: str | None = None,
        but: str | os.PathLike[str] = "",
    ) -> None:
        """`column` and `id_column` name columns of Parquet; `but` is a file to leave out, such as the output."""
        if not named:
            raise DataError("No images were given: name a folder, a list, a tar, a Parquet file or images.")
        self.column, self.id_column = column, id_column
        sources = [source for name in named for source in _find(name, os.path.abspath(but))]
        self.sources = list({(s.holder and os.path.abspath(s.holder)) or id(s): s for s in sources}.values())
        self.repeated = 0
        """Paths that were named more than once; each is one image. Known after all pieces were yielded."""

    def pieces(self) -> Iterator[Piece]:
        """Every image once."""
        again = _Repeats(self._paths())
        for (base, holder), group in groupby(self.sources, lambda source: (source.base, source.holder)):
            if holder is None:
                names = again.once(base, chain.from_iterable(source.names() for source in group))
                while part := list(islice(names, PIECE)):
                    yield Files(base, part)
            elif _ends(holder, TAR):
                yield from tar_pieces(holder)
            else:
                yield from row_pieces(holder, self.column, self.id_column)
        self.repeated = again.count

    def _paths(self) -> Iterator[str]:
        """All paths of files, if any may occur twice."""
        files = [source for source in self.sources if source.holder is None]
        if len(files) == 1 and files[0].distinct:
            return iter(())
        return (os.path.join(source.base, name) for source in files for name in source.names())


class _Repeats:
    """Skips paths that occurred before. Keeps eight bytes per path, and the paths that may be repeated."""

    def __init__(self, paths: Iterable[str]) -> None:
        sums = np.sort(np.fromiter((_sum(path) for path in paths), dtype=np.uint64))
        self.suspects = set(sums[1:][sums[1:] == sums[:-1]].tolist())
        self.seen: set[str] = set()
        self.count = 0

    def once(self, base: str, names: Iterable[str]) -> Iterator[str]:
        for name in names:
            path = os.path.join(base, name)
            if self.suspects and _sum(path) in self.suspects:
                if path in self.seen:
                    self.count += 1
                    continue
                self.seen.add(path)
            yield name


def _sum(path: str) -> int:
    return int.from_bytes(sha256(os.fsencode(path)).digest()[:8], "little")


def _find(name: str, but: str) -> list[Source]:
    if os.path.isdir(name):
        return _in_folder(name, but)
    if os.path.exists(name):
        return [_file(name)]
    if any(sign in name for sign in "*?[{"):
        return _in_pattern(name, but)
    raise DataError(f"There is no image, folder or list {name}.")


def _file(name: str) -> Source:
    if _ends(name, PACKED):
        raise DataError(
            f"{name} is compressed, so its images can't be read one by one: unpack it to a folder or a .tar."
        )
    if _ends(name, TAR + PARQUET):
        return Source(holder=name)
    if _ends(name, LIST):
        return Source(os.path.dirname(name), lambda: _lines(name), distinct=False)
    return Source(names=lambda: [name])


def _in_folder(folder: str, but: str) -> list[Source]:
    paths = (os.path.join(folder, name) for name in _walk(folder, TAR + PARQUET))
    holders = [path for path in paths if os.path.abspath(path) != but]
    if next(_walk(folder, tuple(ENDINGS)), None) is None:
        if not holders:
            raise DataError(f"The folder {folder} holds no images, tars or Parquet files.")
        return [_file(path) for path in holders]
    if holders:
        raise DataError(
            f"The folder {folder} holds images and also {holders[0]}: name one kind, such as "
            f"'{os.path.join(folder, '**/*' + Path(holders[0]).suffix)}'."
        )
    return [Source(folder, lambda: _walk(folder, tuple(ENDINGS)))]


def _in_pattern(pattern: str, but: str) -> list[Source]:
    """A glob, braces as in shards/{000..123}.tar, or both. Files whose ending is not that of an image are skipped."""
    sources: list[Source] = []
    for one in _braces(pattern):
        if not glob.has_magic(one):
            if not os.path.isfile(one):
                raise DataError(f"There is no file {one}, which {pattern} refers to.")
            sources.append(_file(one))
            continue
        names = sorted(n for n in glob.iglob(one, recursive=True) if _ends(n, (*ENDINGS, *TAR, *PARQUET)))
        names = [name for name in names if os.path.isfile(name) and os.path.abspath(name) != but]
        if not names:
            raise DataError(f"No images, tars or Parquet files are named by {one}.")
        sources += [_file(name) for name in names if _ends(name, TAR + PARQUET)]
        images = [name for name in names if not _ends(name, TAR + PARQUET)]
        if images:
            sources.append(Source(names=partial(list, images), distinct=False))
    return sources


def _braces(pattern: str) -> Iterator[str]:
    """{a,b} and {000..123}, as in a shell."""
    parts = re.split(r"(\{[^{}]*\})", pattern)
    yield from ("".join(chosen) for chosen in product(*map(_choices, parts)))


def _choices(part: str) -> list[str]:
    numbers = re.fullmatch(r"\{(\d+)\.\.(\d+)\}", part)
    if numbers:
        first, last = numbers.groups()
        width = max(len(first), len(last)) if "0" in (first[0], last[0]) else 0
        if int(last) - int(first) > 1_000_000:
            raise DataError(f"{part} stands for more than a million names: give a glob.")
        return [f"{n:0{width}d}" for n in range(int(first), int(last) + 1)]
    return part[1:-1].split(",") if part.startswith("{") and "," in part else [part]


def _walk(folder: str, endings: tuple[str, ...], below: str = "") -> Iterator[str]:
    """Names below a folder, sorted folder by folder; hidden ones are left out, links to folders not followed."""
    try:
        with os.scandir(os.path.join(folder, below)) as entries:
            kept = [(e.name, e.is_dir(follow_symlinks=False)) for e in entries if not e.name.startswith(".")]
    except OSError as error:
        raise DataError(
            f"The folder {os.path.join(folder, below)} can't be listed: {error.strerror or error}."
        ) from error
    for name, inner in sorted(kept):
        if inner:
            yield from _walk(folder, endings, os.path.join(below, name))
        elif _ends(name, endings):
            yield os.path.join(below, name)


def _lines(path: str) -> Iterator[str]:
    """One path per line, empty lines left out."""
    with open(path, "rb") as file:
        for number, line in enumerate(file):
            text = os.fsdecode(line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line).rstrip("\r\n")
            if text:
                yield text


def _ends(name: str, endings: Iterable[str]) -> bool:
    return name.lower().endswith(tuple(endings))


def stamp(piece: Piece) -> list[Any]:
    """Sizes and times of the files that a piece is read from; None for absent ones."""
    if isinstance(piece, Files):
        return [size_and_time(os.path.join(piece.base, name)) for name in piece.names]
    return [size_and_time(piece.tar if isinstance(piece, Members) else piece.file)]


def size_and_time(path: str | Path) -> list[int] | None:
    """Bytes and time of the last change, by which a changed file is known; None for an absent one."""
    try:
        about = os.stat(path)
    except (OSError, ValueError):
        return None
    return [about.st_size, about.st_mtime_ns]
