"""Paths that a file lists: kept inside a folder, and looked up there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from fewclip.errors import DataError

LONGEST = 4096
"""Characters of a path."""
SHOWN = 3
"""How many of many are named in a message."""


def check_inside(entry: str, where: str) -> str:
    """`entry` if it is relative and stays inside its folder.

    Raises:
        DataError: it is empty, absolute, or climbs out.
    """
    parts = re.split(r"[\\/]", entry)
    odd = not entry or len(entry) > LONGEST or "\0" in entry or any("\ud800" <= c <= "\udfff" for c in entry)
    if odd or not parts[0] or re.match(r"[A-Za-z]:", parts[0]) or ".." in parts:
        raise DataError(
            f"{where} lists the image {entry[:LONGEST]!r}, which is not a path inside its folder: give paths relative to it, "
            "without '..'."
        )
    return entry


def absent(root: Path, entries: Sequence[str]) -> list[str]:
    """The entries that are not files under `root`. Each folder is listed once, which is fast on network drives, too."""
    folders: dict[str, set[str]] = {}
    missing = []
    for entry in entries:
        folder, _, name = entry.rpartition("/")
        if folder not in folders:
            folders[folder] = set(_files(root / folder))
        if name not in folders[folder]:
            missing.append(entry)
    return missing


def refuse_absent(root: Path, entries: Sequence[str], where: str) -> None:
    """Refuse a list with files that don't exist.

    Raises:
        DataError: naming the first few, and how many there are.
    """
    missing = absent(root, entries)
    if missing:
        raise DataError(
            f"{where} lists {len(entries)} images, but {len(missing)} of them are not in {root}: {some(missing)}. "
            "Put them there, or correct the paths."
        )


def some(names: Iterable[str]) -> str:
    """The first few of many names."""
    names = list(names)
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


def _files(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_file()]
    except OSError:
        return []
