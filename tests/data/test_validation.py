"""Validation images are neither trained on nor tested with."""

from __future__ import annotations

import pytest

from fewclip.data.dataset import Dataset
from fewclip.data.validation import own_validation
from fewclip.errors import DataError


def part(*keys: str) -> Dataset:
    return Dataset("toys", ("a",), list(keys), [0] * len(keys), keys)


def test_a_val_split_of_its_own() -> None:
    splits = {"train": part("1"), "val": part("2", "3"), "test": part("4")}
    assert own_validation(splits.__getitem__) == splits["val"]


@pytest.mark.parametrize("other", ["train", "test"])
def test_a_val_split_that_is_another(other: str) -> None:
    splits = {"train": part("1"), "val": part("2", "3"), "test": part("4")} | {other: part("3", "5")}
    with pytest.raises(
        DataError, match=f"no separate validation images: its val split contains images of its {other} split"
    ):
        own_validation(splits.__getitem__)
