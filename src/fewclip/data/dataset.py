"""Labelled images: what every reader of data returns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fewclip.data.sampling import few_shot
from fewclip.errors import DataError


@dataclass(frozen=True)
class Dataset:
    """Images with labels and class names.

    `images` holds anything that `fewclip.clip.preprocess.read_image` reads: paths, encoded bytes, PIL images, arrays,
    tensors. `keys` names each image within its data set ("cat/001.jpg"), so that an adapter can say what it was
    trained on; it is empty for images without a name. `base` is how many of the classes, from the first on, a
    base-to-novel protocol trains on; None where there is no such order.
    """

    name: str
    classes: tuple[str, ...]
    images: Sequence[Any]
    labels: Sequence[int]
    keys: Sequence[str] = ()
    template: str | None = None
    base: int | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Sequence[int]) -> Dataset:
        """These images, in this order; the classes stay."""
        return replace(
            self,
            images=[self.images[i] for i in indices],
            labels=[self.labels[i] for i in indices],
            keys=[self.keys[i] for i in indices] if self.keys else (),
        )

    def only(self, classes: Sequence[str]) -> Dataset:
        """The images of some classes, labelled anew in the order given."""
        number = {name: i for i, name in enumerate(classes)}
        kept = [i for i, label in enumerate(self.labels) if self.classes[label] in number]
        part = self.take(kept)
        labels = [number[self.classes[label]] for label in part.labels]
        return replace(part, classes=tuple(classes), labels=labels, base=None)

    def halves(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Base and novel classes: the first `base`, by default the first half rounded up, and the rest."""
        cut = (len(self.classes) + 1) // 2 if self.base is None else self.base
        return self.classes[:cut], self.classes[cut:]

    def few_shot(self, shots: int, seed: int) -> Dataset:
        """`shots` random images of each class, picked as the published code picks them.

        Raises:
            DataError: a class has fewer images.
        """
        counts = Counter(self.labels)
        for label, name in enumerate(self.classes):
            if counts[label] < shots:
                raise DataError(
                    f"Class {name!r} of {self.name} has {counts[label]} training images, but {shots} shots were asked "
                    f"for: add images, or ask for at most {min(counts[i] for i in range(len(self.classes)))} shots."
                )
        return self.take(few_shot(self.labels, shots, seed))
