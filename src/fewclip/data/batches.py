"""Images as batches of pixels, decoded by threads while the model computes. Three uses, one way to read ahead:

* `TrainingBatches`: shuffled and augmented, epoch after epoch;
* `DatasetExamples`: all images of a data set in order, for methods that store their features;
* `pixel_batches`: anything that a user wants predicted, in order.

Every random choice follows from a seed and the image's number, so threads change nothing and any batch can be made again.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fewclip.clip.decode import read_image
from fewclip.clip.preprocess import Preprocess
from fewclip.data.dataset import Dataset
from fewclip.seeds import generator

if TYPE_CHECKING:
    from jaxtyping import Float, Int

BATCH = 64
"""Images of a batch of `DatasetExamples`."""
THREADS = 2
Item = TypeVar("Item")
Made = TypeVar("Made")


def _ahead(items: Iterable[Item], start: Callable[[Item], Callable[[], Made]], depth: int) -> Iterator[Made]:
    """What `start(item)()` returns for each item, in order; up to `depth` items are started before they are waited for."""
    started: deque[Callable[[], Made]] = deque()
    for item in items:
        started.append(start(item))
        if len(started) > depth:
            yield started.popleft()()
    while started:
        yield started.popleft()()


# Training


class DecodedImages:
    """Images of a data set as RGB, decoded at first use. They are kept while they fit into `cache_bytes`; the rest is decoded
    again every time."""

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
    """Shuffled, augmented batches. Every random choice follows from (seed, epoch, image).

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
        threads: int = THREADS,
        keep_last: bool = False,
    ) -> None:
        """`share` = (rank, processes): which part of each batch is this process's. `crop_min`: the smallest share of an
        image's area that a crop has. `cache_bytes`: how much memory decoded images may take. `keep_last`: a short last batch is
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
        """The batches of an epoch from number `start` on."""
        # The order is that of the whole epoch whatever `start` is, so that resumed training sees the same batches.
        order = torch.randperm(len(self.dataset), generator=generator(self.seed, "order", epoch)).tolist()
        batches = [order[i * self.batch_size : (i + 1) * self.batch_size] for i in range(start, len(self))]
        with ThreadPoolExecutor(self.threads) as pool:
            yield from _ahead(batches, lambda batch: self._start(pool, epoch, batch), self.threads + 1)

    def _start(self, pool: ThreadPoolExecutor, epoch: int, batch: list[int]) -> Callable[[], Batch]:
        # Every process shuffles alike and takes every `processes`-th image: the shares of a batch are disjoint.
        share = batch[self.rank :: self.processes]
        indices = (
            share or batch[:1]
        )  # a short batch may have no image for this process, which then computes one uncounted
        images = [pool.submit(self._image, epoch, index) for index in indices]
        labels = torch.tensor([self.dataset.labels[index] for index in indices])
        return lambda: Batch(torch.stack([image.result() for image in images]), labels, len(batch), counted=bool(share))

    def _image(self, epoch: int, index: int) -> Float[Tensor, "3 size size"]:
        draws = generator(self.seed, "augment", epoch, index)
        return self.preprocess.augment(self.decoded[index], draws, self.crop_min)


# Features of a data set


class DatasetExamples:
    """The images of a data set as predicted (`plain`) or as augmented, which follows from (seed, pass, image)."""

    def __init__(self, dataset: Dataset, preprocess: Preprocess, *, seed: int, crop_min: float = 0.5) -> None:
        self.dataset, self.preprocess, self.seed, self.crop_min = dataset, preprocess, seed, crop_min
        self.labels: Int[Tensor, " images"] = torch.tensor(list(dataset.labels))

    def plain(self) -> Iterator[Float[Tensor, "batch 3 size size"]]:
        """All images in order, in batches of up to 64."""
        return self._batches(lambda index, image: self.preprocess(image))

    def augmented(self, number: int) -> Iterator[Float[Tensor, "batch 3 size size"]]:
        """The same, each image cropped and mirrored at random for the `number`-th time."""

        def draw(index: int, image: Any) -> Tensor:
            return self.preprocess.augment(image, generator(self.seed, "example", number, index), self.crop_min)

        return self._batches(draw)

    def _batches(self, pixels: Callable[[int, Any], Tensor]) -> Iterator[Tensor]:
        count = len(self.labels)

        def batch(first: int) -> Tensor:
            return torch.stack([pixels(i, self.dataset.images[i]) for i in range(first, min(first + BATCH, count))])

        with ThreadPoolExecutor(THREADS) as pool:
            yield from _ahead(range(0, count, BATCH), lambda first: pool.submit(batch, first).result, THREADS)


# Prediction


def pixel_batches(images: Any, preprocess: Preprocess, size: int) -> Iterator[Float[Tensor, "batch 3 size size"]]:
    """Normalised pixels of one image or many, in order, in batches of up to `size`. An iterator of images is read only a few
    batches ahead.

    Raises:
        DataError: an image can't be read.
    """
    waiting = iter(_many(images))
    batches = iter(lambda: list(islice(waiting, size)), [])
    with ThreadPoolExecutor(THREADS) as pool:
        yield from _ahead(batches, lambda batch: pool.submit(preprocess.batch, batch).result, THREADS)


def _many(images: Any) -> Iterable[Any]:
    """Many images from one or many; an array or tensor of four dimensions is many."""
    if isinstance(images, (str, bytes, os.PathLike)) or not isinstance(images, Iterable):
        return [images]
    if isinstance(images, np.ndarray) and images.dtype.kind in "OUS":  # an array of paths or of images
        return images.tolist()
    if isinstance(images, (np.ndarray, Tensor)) and images.ndim < 4:
        return [images]
    return images
