"""What a data set holds, in numbers and as a contact sheet."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from fewclip.data.benchmarks.table import find_benchmark
from fewclip.data.dataset import Dataset
from fewclip.data.names import match
from fewclip.data.read import read_data
from fewclip.data.sheet import Sample, sheet
from fewclip.errors import DataError

COLUMNS, ROWS = 6, 4


@dataclass(frozen=True)
class Summary:
    name: str
    classes: tuple[str, ...]
    """Of all splits, in the order of the labels."""
    template: str | None
    base: int | None
    splits: dict[str, Dataset]
    """Only those that differ: a folder without split folders is one split, all."""
    counts: dict[str, list[int]]
    """Images of each class, by split."""


def summarise(name: str, root: Path | None = None) -> Summary:
    """Read all splits that a data set has.

    Raises:
        DataError: it has none, or one of a published data set can't be read.
    """
    # Which splits there are is found by trying: a folder or CSV file need not have all three.
    splits: dict[str, Dataset] = {}
    errors: dict[str, DataError] = {}
    for split in ("train", "val", "test"):
        try:
            splits[split] = read_data(name, split, root=root)
        except DataError as error:
            errors[split] = error
    if not splits:
        raise errors["test"]
    first = next(iter(splits.values()))
    if first.published:  # these have known splits: a missing one is a mistake, not a choice
        for split in find_benchmark(first.name).splits:
            if split in errors:
                raise errors[split]
    same = [split for split, part in splits.items() if list(part.images) == list(first.images)]
    if len(same) == 3:
        splits = {"all": first}
    elif first.name == "imagenet":
        del splits["val"]  # the published code's val split is its test split
    # Splits of a folder may have different classes; labels then count over all of them.
    classes = first.classes
    if any(part.classes != classes for part in splits.values()):
        classes = tuple(sorted({c for part in splits.values() for c in part.classes}))
    counts = {split: _count(part, classes) for split, part in splits.items()}
    return Summary(first.name, classes, first.template, first.base, splits, counts)


def _count(part: Dataset, classes: tuple[str, ...]) -> list[int]:
    images = Counter(part.labels)
    return [0 if label is None else images[label] for label in match(classes, part.classes)]


def draw(summary: Summary, path: Path) -> None:
    """A PNG with the first image of up to 24 classes, half of them base and half novel where there is such an order.

    Raises:
        OutputError: the place can't be written to.
    """
    part = next(iter(summary.splits.values()))
    first: dict[int, int] = {}
    for index, label in enumerate(part.labels):
        first.setdefault(label, index)
    labels = sorted(first)
    groups = {"classes": labels}
    if summary.base is not None:
        base = [label for label in labels if label < summary.base]
        groups = {"base classes": base, "novel classes": labels[len(base) :]}
    rows = []
    for heading, members in groups.items():
        chosen = _spread(members, COLUMNS * ROWS // len(groups))
        for start in range(0, len(chosen), COLUMNS):
            samples = [Sample(part.images[first[i]], part.classes[i], ()) for i in chosen[start : start + COLUMNS]]
            rows.append((heading, samples))
    sheet(summary.name, rows, path)


def _spread(labels: list[int], most: int) -> list[int]:
    """At most `most` labels, evenly over the whole list."""
    return [labels[i * len(labels) // most] for i in range(most)] if len(labels) > most else labels
