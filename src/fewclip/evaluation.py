"""Accuracy of a classifier on a part of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from fewclip.classes import key
from fewclip.classifier import FewShotClassifier
from fewclip.data import Dataset
from fewclip.errors import DataError

SPLITS = ("base", "novel", "all")


@dataclass(frozen=True)
class Result:
    """Accuracies in per cent; `classes` were the candidates."""

    split: str
    images: int
    classes: int
    accuracy: float
    mean_class_accuracy: float
    per_class: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def choose(dataset: Dataset, trained: Sequence[str], split: str) -> Dataset:
    """The images and candidate classes of a split: `base` are the trained classes, `novel` the others, `all` both.

    Raises:
        DataError: the data has no such class.
    """
    known = {key(name) for name in trained}
    wanted = {
        "base": [c for c in dataset.classes if key(c) in known],
        "novel": [c for c in dataset.classes if key(c) not in known],
        "all": list(dataset.classes),
    }[split]
    if not wanted:
        what = "one that the adapter was trained on" if split == "base" else "one that it was not trained on"
        raise DataError(
            f"No class of {dataset.name} is {what}, so there is nothing to evaluate for the split {split!r}: use the "
            f"split {'novel' if split == 'base' else 'base'!r}, or other data."
        )
    return dataset.only(wanted)


def without(dataset: Dataset, keys: Sequence[str]) -> Dataset:
    """The images that are not among those named, such as the ones that were trained on."""
    left_out = set(keys)
    if not dataset.keys or not left_out:
        return dataset
    return dataset.take([i for i, name in enumerate(dataset.keys) if name not in left_out])


def evaluate(classifier: FewShotClassifier, dataset: Dataset, split: str = "all") -> Result:
    """Accuracy among the classes of `dataset`."""
    if not len(dataset):
        raise DataError(f"No image of {dataset.name} is left to evaluate: all were trained on. Give data of its own.")
    guesses = classifier.scores(dataset.images, dataset.classes, repeats=dataset.published).argmax(dim=-1)
    labels = torch.tensor(dataset.labels)
    right = (guesses == labels).double()
    per_class = {}
    for label, name in enumerate(dataset.classes):
        mine = right[labels == label]
        if len(mine):
            per_class[name if name not in per_class else f"{name} ({label})"] = round(100 * float(mine.mean()), 2)
    return Result(
        split,
        len(dataset),
        len(dataset.classes),
        round(100 * float(right.mean()), 2),
        round(sum(per_class.values()) / len(per_class), 2),
        per_class,
    )


def harmonic_mean(base: float, novel: float) -> float:
    """2 b n / (b + n), the papers' single figure for base and novel accuracy."""
    return 2 * base * novel / (base + novel) if base + novel else 0.0
