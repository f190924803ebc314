"""Validation images, by which settings are chosen: neither trained on nor tested with."""

from __future__ import annotations

import os
from collections.abc import Callable

from fewclip.data.dataset import Dataset, LazyImages
from fewclip.data.paths import some
from fewclip.errors import DataError


def own_validation(read: Callable[[str], Dataset]) -> Dataset:
    """The val split of the data whose splits `read` returns.

    Raises:
        DataError: there is none, or it is the training or the test split.
    """
    val = read("val")
    for split in ("train", "test"):
        try:
            other = read(split)
        except DataError:
            continue  # there is no such split
        if set(val.keys) & set(other.keys):
            raise DataError(
                f"{val.name} has no separate validation images: its val split contains images of its {split} split: give a "
                "folder of other images."
            )
    return val


def held_out(val: Dataset, train: Dataset) -> Dataset:
    """The validation images of the classes trained on, without files that are trained on, labelled as in training.

    Raises:
        DataError: there is none.
    """
    trained = set(_files(train).values())
    files = _files(val)
    kept = val.take([i for i in range(len(val)) if files.get(i) not in trained]).only(train.classes)
    if not len(kept):
        raise DataError(
            f"{val.name} has no image of the classes {some(train.classes)} "
            "that is not trained on, so no setting can be chosen: give labelled images of the same classes."
        )
    return kept


def _files(dataset: Dataset) -> dict[int, str]:
    """The resolved path of each image that is a file, by index."""
    if isinstance(dataset.images, LazyImages):
        return {}
    return {i: os.path.realpath(x) for i, x in enumerate(dataset.images) if isinstance(x, (str, os.PathLike))}
