"""Pictures of noise around a colour, and the sizes of the tiny CLIP that is tried on them."""

from __future__ import annotations

import numpy as np
from PIL import Image

WORDS = {
    "vocab_size": 49408,
    "context_length": 32,
    "vision_width": 64,
    "vision_heads": 1,
    "text_width": 64,
    "text_heads": 1,
}
COLOURS = {"blue": (40, 60, 200), "green": (40, 190, 60), "red": (200, 50, 40)}


def picture(colour: tuple[int, int, int], seed: int, size: tuple[int, int] = (24, 20)) -> Image.Image:
    """Noise around a colour."""
    noise = np.random.default_rng(seed).integers(-40, 40, (size[1], size[0], 3))
    return Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8))
