"""Few-shot picks of seven published data sets, from the order of their labels alone (tests/published/README.md)."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import pytest

from fewclip.data.benchmarks.table import BENCHMARKS
from fewclip.data.dataset import Dataset

PUBLISHED = Path(__file__).parents[1] / "published"
PICKS = list(csv.DictReader((PUBLISHED / "picks.csv").open()))
RUNS = list(csv.DictReader((PUBLISHED / "splits.csv").open()))
KEYS = tuple(dict.fromkeys(row["dataset"] for row in PICKS))


def split(key: str, part: str) -> Dataset:
    """The split with its images' positions in the place of paths."""
    runs = [row for row in RUNS if (row["dataset"], row["split"]) == (key, part)]
    labels = [int(row["label"]) for row in runs for _ in range(int(row["count"]))]
    positions = [str(i) for i in range(len(labels))]
    classes = tuple(str(i) for i in range(BENCHMARKS[key].classes))
    return Dataset(key, classes, positions, labels, positions, published=True)


def test_there_are_seven_data_sets() -> None:
    assert len(KEYS) == 7
    assert len(PICKS) == 7 * 5 * 3 * 2


@pytest.mark.parametrize("key", KEYS)
def test_picks_are_the_published_ones(key: str) -> None:
    train, val = split(key, "train"), split(key, "val")
    assert (len(train), len(val)) == BENCHMARKS[key].sizes[:2]
    for row in (row for row in PICKS if row["dataset"] == key):
        picked = train.few_shot_and_val(val, int(row["shots"]), int(row["seed"]))
        positions = dict(zip(("train", "val"), picked, strict=True))[row["split"]].keys
        assert len(positions) == int(row["count"])
        assert hashlib.sha256("\n".join(positions).encode()).hexdigest() == row["sha256"], row
