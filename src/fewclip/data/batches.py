"""Images as batches of pixels: shuffled and augmented for training, whole and in order for features, ahead of prediction."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fewclip.clip.preprocess import Preprocess, read_image
from fewclip.data.dataset import Dataset
from fewclip.seeds import generator

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class DecodedImages:
    """Images of a data set as RGB, decoded at first use and kept while they fit into `cache_bytes`; beyond, re-read."""

    def __init__(self, images: Sequence[Any], cache_bytes: int) -> None:
        self.images = images
        self.left = cache_bytes
        self.kept: dict[int, Image.Image] = {}
        self._lock = Lock()

    def __getitem__(self, index: int) -> Image.Image:
        if index in self.kept:
            return self.kept[index]
        image = read_image(self.images[index])
        size = 3 * image.width * image.height
        with self._lock:
            if size <= self.left and index not in self.kept:
                self.left -= size
                self.kept[index] = image
        return image


@dataclass(frozen=True)
class Batch:
    """A share of a training batch. `whole` is how many images the batch has over all shares.

    `counted`: False for a process that a short batch has no image for. It computes one all the same, so that all processes
    exchange the same gradients, with weight 0.
    """

    images: Float[Tensor, "share 3 size size"]
    labels: Int[Tensor, " share"]
    whole: int
    counted: bool = True


class TrainingBatches:
    """Shuffled, augmented batches. Every random choice follows from (seed, epoch, image), so any batch can be made again.

    The last batch of an epoch is dropped if it is short, unless it is the only one, as in most published code
    (`fewclip.methods.base.Method.keep_last`).
    """

    def __init__(
        self,
        dataset: Dataset,
        preprocess: Preprocess,
        *,
        batch_size: int,
        seed: int,
        crop_min: float = 0.5,
        cache_bytes: int = 2 << 30,
        share: tuple[int, int] = (0, 1),
        threads: int = 2,
        keep_last: bool = False,
    ) -> None:
        """`share` = (rank, processes): which part of each batch is this process's. `keep_last`: a short last batch is
        used too."""
        self.dataset, self.preprocess, self.seed = dataset, preprocess, seed
        self.batch_size = min(batch_size, len(dataset))
        self.rank, self.processes = share
        self.threads, self.crop_min, self.keep_last = threads, crop_min, keep_last
        self.decoded = DecodedImages(dataset.images, cache_bytes)

    def __len__(self) -> int:
        """Batches per epoch."""
        whole, left = divmod(len(self.dataset), self.batch_size)
        return whole + (self.keep_last and left > 0)

    @property
    def images(self) -> int:
        """Images per epoch."""
        return min(len(self) * self.batch_size, len(self.dataset))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on, made a few ahead by threads."""
        order = torch.randperm(len(self.dataset), generator=generator(self.seed, "order", epoch)).tolist()
        numbers = range(start, len(self))
        batches = [order[i * self.batch_size : (i + 1) * self.batch_size] for i in numbers]
        with ThreadPoolExecutor(self.threads) as pool:
            yield from _ahead(batches, lambda batch: self._submit(pool, epoch, batch), self.threads + 1)

    def _submit(self, pool: ThreadPoolExecutor, epoch: int, batch: list[int]) -> Callable[[], Batch]:
        share = batch[self.rank :: self.processes]
        indices = share or batch[:1]
        images = [pool.submit(self._image, epoch, index) for index in indices]
        labels = torch.tensor([self.dataset.labels[index] for index in indices])
        return lambda: Batch(_stack(images), labels, len(batch), counted=bool(share))

    def _image(self, epoch: int, index: int) -> Tensor:
        return self.preprocess.augment(
            self.decoded[index], generator(self.seed, "augment", epoch, index), self.crop_min
        )


def _stack(images: list[Future[Tensor]]) -> Tensor:
    return torch.stack([image.result() for image in images])


def _ahead(items: list[list[int]], submit: Callable[[list[int]], Callable[[], Batch]], depth: int) -> Iterator[Batch]:
    """Results in order, with up to `depth` submitted ahead of the one that is waited for."""
    waiting: list[Callable[[], Batch]] = []
    for item in items:
        waiting.append(submit(item))
        if len(waiting) > depth:
            yield waiting.pop(0)()
    while waiting:
        yield waiting.pop(0)()


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


def as_images(images: Any) -> Iterable[Any]:
    """Many images from one or many; an array or tensor of four dimensions is many."""
    if isinstance(images, (str, bytes, os.PathLike)) or hasattr(images, "convert"):
        return [images]
    if isinstance(images, np.ndarray) and images.dtype.kind in "OUS":  # an array of paths or of images
        return images.tolist()
    if isinstance(images, (np.ndarray, Tensor)) and images.ndim < 4:
        return [images]
    return images


def pixel_batches(images: Any, preprocess: Preprocess, size: int) -> Iterator[Tensor]:
    """Normalised pixels (up to `size`, 3, S, S) of the images, in order."""
    iterator = iter(as_images(images))
    batches = iter(lambda: list(islice(iterator, size)), [])
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(preprocess.batch, batch) for batch in islice(batches, 2)]
        while waiting:
            pixels = waiting.pop(0).result()
            waiting += [pool.submit(preprocess.batch, batch) for batch in islice(batches, 1)]
            yield pixels
