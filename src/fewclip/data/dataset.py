"""Labelled images, which every reader of data returns, and the few-shot picks of the published code."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fewclip.data.names import match
from fewclip.errors import DataError

VAL_SHOTS = 4
"""The most validation images per class that the published code picks."""


class LazyImages(Sequence[Any]):
    """`make(row)` for each of `rows`, made when it is asked for."""

    def __init__(self, make: Callable[[int], Any], rows: Sequence[int]) -> None:
        self.make, self.rows = make, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.take(range(len(self))[index]) if isinstance(index, slice) else self.make(self.rows[index])

    def take(self, indices: Sequence[int]) -> LazyImages:
        """These images, in this order, still unmade."""
        return LazyImages(self.make, [self.rows[i] for i in indices])


@dataclass(frozen=True)
class Dataset:
    """Images with labels and class names.

    Attributes:
        classes: class names in the order of the labels.
        images: anything that `fewclip.clip.decode.read_image` reads: paths, encoded bytes, PIL images, arrays, tensors.
        labels: each image's index in `classes`.
        keys: each image's name within its data set ("cat/001.jpg"), so that an adapter can record what it was trained on;
            empty for images without names.
        template: the prompt template that suits the data; None for the default.
        base: how many of the classes, from the first on, a base-to-novel protocol trains on; None without such an order.
        published: one of the 15 benchmark data sets, with the papers' rules: a class with fewer images than shots gives all of
            them, and two classes may have one name (ImageNet's missile and sunglasses).
        numbers: the labels of the classes where they were given as whole numbers.
        whole: the data set that `only` took this part from.
    """

    name: str
    classes: tuple[str, ...]
    images: Sequence[Any]
    labels: Sequence[int]
    keys: Sequence[str] = ()
    template: str | None = None
    base: int | None = None
    published: bool = False
    numbers: tuple[int, ...] = ()
    whole: Dataset | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Sequence[int]) -> Dataset:
        """These images, in this order; the classes stay."""
        images = self.images
        return replace(
            self,
            images=images.take(indices) if isinstance(images, LazyImages) else [images[i] for i in indices],
            labels=[self.labels[i] for i in indices],
            keys=[self.keys[i] for i in indices] if self.keys else (),
            whole=None,
        )

    def only(self, classes: Sequence[str]) -> Dataset:
        """The images of some classes, relabelled in the order given. Of a name that occurs twice, the first is the first such
        class and the second the second."""
        number = match(self.classes, classes)
        kept = [i for i, label in enumerate(self.labels) if number[label] is not None]
        part = self.take(kept)
        labels = [new for label in part.labels if (new := number[label]) is not None]
        of_place = {new: value for new, value in zip(number, self.numbers, strict=False) if new is not None}
        numbers = tuple(of_place[new] for new in sorted(of_place)) if len(of_place) == len(classes) else ()
        return replace(part, classes=tuple(classes), labels=labels, base=None, numbers=numbers, whole=self._source())

    def of_classes(self, classes: Sequence[str]) -> Dataset:
        """The images of some classes, with all classes kept as candidates."""
        wanted = set(classes)
        return self.take([i for i, label in enumerate(self.labels) if self.classes[label] in wanted])

    def halves(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Base and novel classes: the first `base`, by default the first half rounded up, and the rest."""
        cut = (len(self.classes) + 1) // 2 if self.base is None else self.base
        return self.classes[:cut], self.classes[cut:]

    def few_shot(self, shots: int, seed: int) -> Dataset:
        """`shots` random images per class, the same as the published code picks. Of a part made by `only`, these are the picks
        of the whole that are in it.

        Raises:
            DataError: a class has fewer images, unless the data set is `published`.
        """
        self._check_shots(shots)
        return self._picked(few_shot(self._source().labels, shots, random.Random(seed)))

    def few_shot_and_val(self, val: Dataset, shots: int, seed: int) -> tuple[Dataset, Dataset]:
        """The picks of `few_shot`, and at most 4 per class of `val` by the same generator, as published.

        Raises:
            DataError: as `few_shot`.
        """
        self._check_shots(shots)
        rng = random.Random(seed)
        picks = few_shot(self._source().labels, shots, rng)
        return self._picked(picks), val._picked(few_shot(val._source().labels, min(shots, VAL_SHOTS), rng))

    def _source(self) -> Dataset:
        return self if self.whole is None else self.whole

    def _picked(self, picks: Sequence[int]) -> Dataset:
        """Those of the picks from its source that are in this part."""
        return self.take(picks) if self.whole is None else self.whole.take(picks).only(self.classes)

    def _check_shots(self, shots: int) -> None:
        if self.published:
            return
        counts = Counter(self.labels)
        for label, name in enumerate(self.classes):
            if counts[label] < shots:
                raise DataError(
                    f"Class {name!r} of {self.name} has {counts[label]} training images, but {shots} shots were asked "
                    f"for: add images, or ask for at most {min(counts[i] for i in range(len(self.classes)))} shots."
                )


# Few-shot picks


def few_shot(labels: Sequence[int], shots: int, rng: random.Random) -> list[int]:
    """Indices of `shots` images of each class, or all of a class that has fewer.

    Classes come in the order of their first appearance. Python's generator is part of what was published: with
    `random.Random(seed)` these are the very images of the published code.
    """
    by_label: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        by_label.setdefault(label, []).append(index)
    picks: list[int] = []
    for indices in by_label.values():
        picks += rng.sample(indices, shots) if len(indices) >= shots else indices
    return picks
