"""Labelled images from folders, embedded data sets and lists. Knows neither methods nor protocols."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fewclip.data.dataset import Dataset
from fewclip.data.embedded import EMBEDDED, read_embedded
from fewclip.data.folder import read_folder
from fewclip.errors import DataError

Data = str | os.PathLike[str] | Dataset | Iterable[tuple[Any, str]]
"""An embedded name, a folder, a `Dataset`, or pairs of an image and its class name."""


def read_data(data: Data, split: str = "train") -> Dataset:
    """One split of some data, as a `Dataset`.

    An embedded name comes before a folder of the same name; write ./icons for the folder.

    Raises:
        DataError: nothing usable is found.
    """
    if isinstance(data, Dataset):
        return data
    if isinstance(data, str) and data in EMBEDDED:
        return read_embedded(data, split)
    if isinstance(data, (str, os.PathLike)):
        if not Path(data).exists():
            raise DataError(
                f"There is no folder {os.fspath(data)!r} and no embedded data set of that name: give a folder that "
                f"holds one folder of images per class, or one of {', '.join(EMBEDDED)}."
            )
        return read_folder(Path(data), split)
    return from_pairs(list(data))


def from_pairs(pairs: Sequence[Any], name: str = "the list") -> Dataset:
    """Pairs (image, class name); classes in sorted order.

    Raises:
        DataError: no pairs, or something else than pairs.
    """
    if not pairs:
        raise DataError("No images were given: expected a folder, or pairs of an image and its class name.")
    for pair in pairs:
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2 and isinstance(pair[1], str)):
            raise DataError(f"Expected pairs of an image and its class name, but one entry is {_brief(pair)}.")
    classes = sorted({label for _, label in pairs})
    number = {c: i for i, c in enumerate(classes)}
    return Dataset(name, tuple(classes), [image for image, _ in pairs], [number[c] for _, c in pairs])


def _brief(thing: object) -> str:
    text = repr(thing)
    return text if len(text) <= 60 else f"{text[:57]}..."


__all__ = ["EMBEDDED", "Data", "Dataset", "from_pairs", "read_data"]
