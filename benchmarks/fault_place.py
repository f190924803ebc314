"""What the faults happen to: a tiny backbone, a few noisy pictures, an adapter."""

from __future__ import annotations

from pathlib import Path

import common  # noqa: F401 (finds fewclip and the tests' helpers)
import numpy as np
from PIL import Image
from safetensors.torch import save_file
from small import small_clip

from fewclip.cli import main
from fewclip.clip.model import CLIP

COLOURS = {"blue": (40, 60, 200), "green": (40, 190, 60), "red": (200, 50, 40), "grey": (120, 120, 120)}


class Place:
    """A tiny backbone, labelled pictures, pictures to predict, and a finished adapter."""

    def __init__(self, root: Path) -> None:
        self.backbone, self.photos = root / "tiny.safetensors", root / "photos"
        self.many, self.adapter = root / "many", root / "adapter"

    def prepare(self) -> int:
        words = {"vocab_size": 49408, "context_length": 32}
        sizes = {"vision_width": 64, "vision_heads": 1, "text_width": 64, "text_heads": 1}
        save_file(small_clip(**words, **sizes).state_dict(), self.backbone, {"quick_gelu": "true"})
        for name, colour in COLOURS.items():
            for number in range(8):
                _picture(colour, number, self.photos / name / f"{number}.png")
        for number in range(1100):
            _picture(list(COLOURS.values())[number % 4], number, self.many / f"{number:04}.png")
        (self.many / "0007.png").write_bytes(b"no image")
        return main(self.fit(self.adapter, "--seed=7"))

    def warm(self) -> None:
        """Read the backbone, once for all children: it is only read, and would take most of their time."""
        clip = CLIP.from_pretrained(str(self.backbone))
        CLIP.from_pretrained = lambda name: clip  # type: ignore[method-assign, assignment, misc]

    def fit(self, out: Path, *more: str) -> list[str]:
        settings = "--shots=4 --batch-size=4 --rep-dim=32 --device=cpu --json --epochs=3"
        return ["fit", str(self.photos), "-o", str(out), "--backbone", str(self.backbone), *settings.split(), *more]


def _picture(colour: tuple[int, ...], seed: int, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-40, 40, (20, 24, 3))
    Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(path)
