"""Images to predict, in batches of pixels, decoded one batch ahead."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
from torch import Tensor

from fewclip.clip.preprocess import Preprocess


def as_images(images: Any) -> Iterable[Any]:
    """Many images from one or many; an array or tensor of four dimensions is many."""
    if isinstance(images, (str, bytes, os.PathLike)) or hasattr(images, "convert"):
        return [images]
    if isinstance(images, (np.ndarray, Tensor)) and images.dtype != object and images.ndim < 4:
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
