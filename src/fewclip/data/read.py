"""From what a user names to a `Dataset`: published and embedded sets, folders, CSV files, Hugging Face objects, lists."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor

from fewclip.data.benchmarks.readers import ROOT_VARIABLE, find_folder, read_benchmark
from fewclip.data.benchmarks.table import BENCHMARKS, TABLE, named
from fewclip.data.csv import read_csv
from fewclip.data.dataset import Dataset
from fewclip.data.embedded import EMBEDDED, read_embedded
from fewclip.data.folder import SPLITS, read_folder
from fewclip.data.hf import HubTable, is_hub_table, read_hub_table
from fewclip.data.labels import ClassNames, brief, read_labels
from fewclip.errors import DataError
from fewclip.files.read import exists

Data = str | os.PathLike[str] | Dataset | HubTable | Mapping[str, HubTable] | Iterable[tuple[Any, str | int]]
"""An embedded or published name, a folder, a CSV file, a `Dataset`, a Hugging Face data set, or pairs of an image and
its label."""


def read_data(
    data: Data,
    split: str = "train",
    *,
    root: str | os.PathLike[str] | None = None,
    class_names: ClassNames | None = None,
) -> Dataset:
    """One split (train, val or test) of some data, as a `Dataset`.

    The name of an embedded data set takes precedence over a folder of the same name (write ./icons for the folder), and so
    does that of one of the 15 published ones where `root` or $FEWCLIP_DATA says where it is. A folder that holds a published
    set's split file is read as that set. `class_names` are for
    pairs whose labels are whole numbers.

    Raises:
        DataError: nothing usable is found.
    """
    if split not in SPLITS:
        raise DataError(f"There is no split {split!r}: choose train, val or test.")
    if isinstance(data, Dataset):
        return data
    if is_hub_table(data):
        return read_hub_table(data, split)
    if not isinstance(data, (str, os.PathLike)):
        if not isinstance(data, Iterable):
            raise DataError(f"The data is {brief(data)}: expected a folder, or pairs of an image and its class name.")
        return from_pairs(list(cast("Iterable[Any]", data)), class_names=class_names)
    if isinstance(data, str) and data in EMBEDDED:
        return read_embedded(data, split)
    path = Path(data)
    benchmark = named(data) if isinstance(data, str) and os.sep not in data else None
    if benchmark and (root is not None or os.environ.get(ROOT_VARIABLE) or not exists(path)):
        return read_benchmark(benchmark, find_folder(benchmark, root), split)
    if root is not None:
        raise DataError(
            f"A root was given, but {os.fspath(data)!r} is not one of {', '.join(BENCHMARKS)}: "
            "leave the root out, or give one of them."
        )
    return _read_path(path, split)


def _read_path(path: Path, split: str) -> Dataset:
    if path.suffix.lower() == ".csv":
        return read_csv(path, split)
    if not exists(path):
        raise DataError(
            f"There is no folder {os.fspath(path)!r} and no embedded data set of that name: give a folder that "
            f"holds one folder of images per class, a CSV file, or one of {', '.join([*EMBEDDED, *BENCHMARKS])}."
        )
    for benchmark in TABLE:
        if (path / benchmark.sign).exists():
            return read_benchmark(benchmark, path, split)
    inside = [b for b in TABLE if (path / b.directory / b.sign).exists()]
    if inside:
        raise DataError(
            f"{path} is a root of published data sets ({', '.join(b.directory for b in inside)}), not one data set: "
            f"give one, such as {path / inside[0].directory}."
        )
    return read_folder(path, split)


def paired(images: Iterable[Any], labels: Any) -> list[tuple[Any, Any]]:
    """Images with their labels.

    Raises:
        DataError: not one label for each image.
    """
    if isinstance(images, (str, bytes, os.PathLike)) or not isinstance(images, Iterable):
        raise DataError(f"Labels were given with {brief(images)}: expected a list of images, one for each label.")
    if hasattr(labels, "__array__") and not isinstance(labels, Tensor):
        labels = np.asanyarray(labels)  # rows, not columns, of a table
    no_list = isinstance(labels, (str, bytes, Mapping, Set)) or not hasattr(labels, "__len__")
    if no_list or getattr(labels, "ndim", 1) == 0:
        raise DataError(f"The labels are {brief(labels)}: expected one label per image.")
    images, labels = list(images), list(labels)
    if len(images) != len(labels):
        raise DataError(f"{len(images)} images were given with {len(labels)} labels: expected one label per image.")
    return list(zip(images, labels, strict=True))


def from_pairs(pairs: Sequence[Any], name: str = "the list", *, class_names: ClassNames | None = None) -> Dataset:
    """Pairs (image, label); classes in the sorted order of their labels, which are text or whole numbers.

    `class_names` are the names of classes whose labels are whole numbers, by default the numbers written out.

    Raises:
        DataError: there are no pairs, or something is not a pair; labels as in `fewclip.data.labels.read_labels`.
    """
    if not pairs:
        raise DataError("No images were given: expected a folder, or pairs of an image and its class name.")
    for pair in pairs:
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2):
            raise DataError(f"Expected pairs of an image and its class name, but one entry is {brief(pair)}.")
    labels = read_labels([label for _, label in pairs], class_names)
    return Dataset(
        name, tuple(labels.classes), [image for image, _ in pairs], labels.indices, numbers=tuple(labels.numbers)
    )
