"""Fixtures that every test shares: a tiny CLIP on disk and a folder of coloured pictures."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from small import small_clip

from fewclip.clip.model import CLIP

WORDS = {
    "vocab_size": 49408,
    "context_length": 32,
    "vision_width": 64,
    "vision_heads": 1,
    "text_width": 64,
    "text_heads": 1,
}
COLOURS = {"blue": (40, 60, 200), "green": (40, 190, 60), "red": (200, 50, 40)}


torch.set_num_threads(1)  # the models are tiny, and the machine may be shared


@pytest.fixture(scope="session")
def backbone_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random CLIP with CLIP's own vocabulary, in OpenAI's names."""
    clip = small_clip(**WORDS)
    path = tmp_path_factory.mktemp("backbone") / "tiny.safetensors"
    save_file(clip.state_dict(), path, {"quick_gelu": "true"})
    return path


@pytest.fixture(scope="session")
def other_backbone_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    clip = small_clip(seed=1, **WORDS)
    path = tmp_path_factory.mktemp("backbone") / "other.safetensors"
    save_file(clip.state_dict(), path, {"quick_gelu": "true"})
    return path


@pytest.fixture
def backbone(backbone_file: Path) -> CLIP:
    return CLIP.from_pretrained(str(backbone_file))


def picture(colour: tuple[int, int, int], seed: int, size: tuple[int, int] = (24, 20)) -> Image.Image:
    """Noise around a colour."""
    noise = np.random.default_rng(seed).integers(-40, 40, (size[1], size[0], 3))
    return Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder per colour, eight pictures each."""
    root = tmp_path / "photos"
    for number, (name, colour) in enumerate(COLOURS.items()):
        (root / name).mkdir(parents=True)
        for i in range(8):
            picture(colour, 100 * number + i).save(root / name / f"{i}.png")
    return root


@pytest.fixture
def pairs() -> list[tuple[Image.Image, str]]:
    return [(picture(colour, 10 * n + i), name) for n, (name, colour) in enumerate(COLOURS.items()) for i in range(4)]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
