"""Images to a tower's pixels: resize, crop, normalise; and the random crop and flip of training.

Step by step what torchvision's Resize, CenterCrop, RandomResizedCrop and RandomHorizontalFlip do to a PIL image, so
that published results can be reproduced, with Pillow's antialiased bicubic. (One `resize(box=…)` would be less work than
crop and resize, but reads pixels beyond the crop's edge, and rounds differently.)
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fewclip.clip.decode import MAX_PIXELS, Source, read_image

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["MAX_PIXELS", "MEAN", "STD", "Preprocess", "Source", "read_image"]

# CLIP's own mean and standard deviation of each colour.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

LONGEST_SIDES = 100
"""Of an image with a more extreme ratio of sides than 1 to this, only the middle of that ratio is resized and then cropped:
otherwise 1 × 100,000 pixels would become 224 × 22,400,000."""
_RATIO = (3 / 4, 4 / 3)  # of CoOp's training crops


@dataclass(frozen=True)
class Preprocess:
    """How a backbone's images are prepared. `squash`: both sides to the size, uncropped (some of open_clip's)."""

    image_size: int
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    squash: bool = False
    _values: NDArray[np.float32] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        values = np.arange(256, dtype=np.float32)[None] / np.float32(255)
        mean, std = (np.array(v, dtype=np.float32)[:, None] for v in (self.mean, self.std))
        object.__setattr__(self, "_values", (values - mean) / std)  # (3, 256): of every byte its normalised value

    @classmethod
    def from_settings(cls, settings: dict[str, Any], image_size: int) -> Preprocess:
        """From Hugging Face's `preprocessor_config.json` or open_clip's `preprocess_cfg`, else CLIP's values.

        The size is the tower's. Warns where the settings ask for something that is not supported.

        Raises:
            ValueError, TypeError, AttributeError: malformed settings.
        """
        if settings.get("interpolation", "bicubic") != "bicubic" or settings.get("resample", 3) != 3:
            warnings.warn("The checkpoint asks for an interpolation other than bicubic; bicubic is used.", stacklevel=2)
        size = settings.get("size", image_size)
        sides = set(size.values() if isinstance(size, dict) else size if isinstance(size, (list, tuple)) else [size])
        if sides != {image_size}:
            warnings.warn(
                f"The checkpoint resizes images to {sorted(sides)}; its tower's {image_size} is used.", stacklevel=2
            )
        mean = _three(settings.get("image_mean") or settings.get("mean") or MEAN)
        std = _three(settings.get("image_std") or settings.get("std") or STD)
        if not all(abs(m) < 1e3 and 1e-3 < s < 1e3 for m, s in zip(mean, std, strict=True)):
            raise ValueError(f"mean {mean} and standard deviation {std} of colours from 0 to 1")
        return cls(image_size, mean, std, squash=settings.get("resize_mode") == "squash")

    def __call__(self, image: Source) -> Float[Tensor, "3 size size"]:
        """Shorter side to the size, central crop, normalise. Takes whatever `read_image` reads.

        Raises:
            DataError: the image can't be read.
        """
        image, size = read_image(image), self.image_size
        if self.squash:
            return self._normalise(_resize(image, size, size))
        image = _middle(image)
        width, height = image.size
        short = min(width, height)
        image = _resize(image, int(size * width / short), int(size * height / short))
        left, top = round((image.width - size) / 2.0), round((image.height - size) / 2.0)
        return self._normalise(image.crop((left, top, left + size, top + size)))

    def augment(self, image: Source, generator: torch.Generator, smallest: float = 0.5) -> Float[Tensor, "3 size size"]:
        """A random part of the image (`smallest` to all of its area, 3:4 to 4:3), resized, mirrored every other time.

        The draws are torchvision's, in its order, so the same seed gives the same crops.

        Raises:
            DataError: the image can't be read.
        """
        image = read_image(image)
        left, top, width, height = _random_box(image.width, image.height, generator, smallest)
        image = _resize(image.crop((left, top, left + width, top + height)), self.image_size, self.image_size)
        if torch.rand(1, generator=generator).item() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return self._normalise(image)

    def batch(self, images: Iterable[Source]) -> Float[Tensor, "batch 3 size size"]:
        """Several images, as `__call__` makes them.

        Raises:
            DataError: an image can't be read.
        """
        pixels = [self(image) for image in images]
        return torch.stack(pixels) if pixels else torch.empty(0, 3, self.image_size, self.image_size)

    def _normalise(self, image: Image.Image) -> Float[Tensor, "3 size size"]:
        pixels = np.asarray(image)  # (size, size, 3)
        out = np.empty((3, *pixels.shape[:2]), dtype=np.float32)
        for channel in range(3):
            np.take(self._values[channel], pixels[..., channel], out=out[channel])
        return torch.from_numpy(out)


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _middle(image: Image.Image) -> Image.Image:
    """The image, or the middle of one that is very long."""
    width, height = image.size
    most = LONGEST_SIDES * min(width, height)
    if max(width, height) <= most:
        return image
    left, top = max(0, (width - most) // 2), max(0, (height - most) // 2)
    return image.crop((left, top, left + min(width, most), top + min(height, most)))


def _resize(image: Image.Image, width: int, height: int) -> Image.Image:
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)


def _random_box(width: int, height: int, generator: torch.Generator, smallest: float) -> tuple[int, int, int, int]:
    """Left, top, width and height of a training crop: ten tries, then the largest central part of an allowed ratio."""
    low, high = _RATIO
    for _ in range(10):
        area = width * height * torch.empty(1).uniform_(smallest, 1.0, generator=generator).item()
        ratio = torch.exp(torch.empty(1).uniform_(math.log(low), math.log(high), generator=generator)).item()
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = int(torch.randint(0, height - h + 1, (1,), generator=generator))
            left = int(torch.randint(0, width - w + 1, (1,), generator=generator))
            return left, top, w, h
    w, h = width, height
    if width / height < low:
        h = round(width / low)
    elif width / height > high:
        w = round(height * high)
    return (width - w) // 2, (height - h) // 2, w, h
