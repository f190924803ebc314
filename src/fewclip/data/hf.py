"""A Hugging Face `datasets` object, recognised by its attributes: the package need not be installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from fewclip.data.dataset import Dataset, LazyImages
from fewclip.data.folder import SPLITS
from fewclip.errors import DataError

LABELS = ("label", "labels", "class", "fine_label")
"""Columns that are taken for the label if several could be, in this order of preference."""


class HubTable(Protocol):
    """What a `datasets.Dataset` and an `IterableDataset` have in common: features, by column."""

    @property
    def features(self) -> Mapping[str, Any]: ...


def is_hub_table(data: Any) -> bool:
    """Whether this is a data set of the `datasets` package, or its dict of splits."""
    if isinstance(data, Mapping):
        return bool(data) and all(is_hub_table(part) for part in data.values())
    return isinstance(getattr(data, "features", None), Mapping)


def read_hub_table(data: Any, split: str = "train", *, image: str | None = None, label: str | None = None) -> Dataset:
    """One split of a `datasets.DatasetDict`, or a whole `datasets.Dataset`. Images are decoded when they are used.

    `image` and `label` name the columns; by default the one of type Image, and the one of type ClassLabel or, without
    it, one called label or class. Classes keep the order of a ClassLabel; names in text are sorted.

    Raises:
        DataError: no such split or columns, or a row without a class.
    """
    if isinstance(data, Mapping):
        data = _part(data, split)
    kinds = {name: type(feature).__name__ for name, feature in data.features.items()}
    image = _column(kinds, image, [n for n, kind in kinds.items() if kind == "Image"], "image", ("image", "img"))
    named = [n for n, kind in kinds.items() if kind == "ClassLabel"]
    label = _column(kinds, label, named or [n for n in LABELS if n in kinds], "label", LABELS)
    name = str(getattr(getattr(data, "info", None), "dataset_name", None) or "the Hugging Face data set")
    images: Sequence[Any]
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        values = list(data[label])
        images = LazyImages(lambda row: data[row][image], range(len(values)))
    else:  # a stream
        rows = list(data)
        values, images = [row[label] for row in rows], [row[image] for row in rows]
    classes, labels = _classes(data.features[label], values, label, name)
    part = getattr(data, "split", None) or split
    return Dataset(name, classes, images, labels, [f"{part}/{row}" for row in range(len(values))])


def _part(parts: Mapping[str, Any], split: str) -> Any:
    for name in SPLITS[split]:
        if name in parts:
            return parts[name]
    raise DataError(f"The data set has the splits {', '.join(parts)}, but none called {split!r}: give one of them.")


def _column(
    kinds: Mapping[str, str], given: str | None, fitting: Sequence[str], what: str, usual: Sequence[str]
) -> str:
    if given is not None and given not in kinds:
        raise DataError(f"The data set has no column {given!r}: choose the {what} from {', '.join(kinds)}.")
    chosen = given or (fitting[0] if len(fitting) == 1 else next((n for n in usual if n in fitting), None))
    if chosen is None:
        raise DataError(
            f"The data set has the columns {', '.join(f'{n} ({kind})' for n, kind in kinds.items())}, and none of them "
            f"is clearly the {what}: name it in read_hub_table(data, {what}=…)."
        )
    return chosen


def _classes(feature: Any, values: Sequence[Any], column: str, name: str) -> tuple[tuple[str, ...], list[int]]:
    if not values:
        raise DataError(f"{name} has no rows: give a split with images.")
    names = getattr(feature, "names", None)
    if names is None:
        values = [value if isinstance(value, str) else str(value) if type(value) is int else None for value in values]
        names = sorted({value for value in values if value is not None})
        numbers: dict[Any, int] = {value: i for i, value in enumerate(names)}
    else:
        numbers = {i: i for i in range(len(names))}
    wrong = [row for row, value in enumerate(values) if value not in numbers]
    if wrong:
        raise DataError(
            f"{name} has {len(wrong)} rows without a class in the column {column!r}, such as row {wrong[0]}: remove "
            "rows without a label."
        )
    return tuple(map(str, names)), [numbers[value] for value in values]
