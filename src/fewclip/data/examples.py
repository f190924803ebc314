"""Training images in order, whole, for methods that learn from their features rather than by steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from fewclip.clip.preprocess import Preprocess
from fewclip.data.dataset import Dataset
from fewclip.seeds import generator

BATCH = 64


class DatasetExamples:
    """The images of a data set as predicted (`plain`) or as augmented, which follows from (seed, pass, image)."""

    def __init__(self, dataset: Dataset, preprocess: Preprocess, *, seed: int, crop_min: float = 0.5) -> None:
        self.dataset, self.preprocess, self.seed, self.crop_min = dataset, preprocess, seed, crop_min
        self.labels = torch.tensor(list(dataset.labels))
        self.classes = len(dataset.classes)

    def plain(self) -> Iterator[Tensor]:
        """Batches (up to 64, 3, S, S) of all images, in order."""
        return self._batches(lambda index, image: self.preprocess(image))

    def augmented(self, number: int) -> Iterator[Tensor]:
        """The same, each image cropped and mirrored at random for the `number`-th time."""

        def draw(index: int, image: Any) -> Tensor:
            return self.preprocess.augment(image, generator(self.seed, "example", number, index), self.crop_min)

        return self._batches(draw)

    def _batches(self, pixels: Callable[[int, Any], Tensor]) -> Iterator[Tensor]:
        images = self.dataset.images
        for start in range(0, len(self.labels), BATCH):
            yield torch.stack([pixels(i, images[i]) for i in range(start, min(start + BATCH, len(self.labels)))])
