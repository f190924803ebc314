"""CLIP-LoRA: low-rank updates of the attention projections of both towers.

Zanella and Ben Ayed, "Low-Rank Few-Shot Adaptation of Vision-Language Models", CVPR Workshops 2024 (arXiv 2405.18541):
a projection W becomes W + (α/√r)·B A, fitted by cross-entropy with one set of settings for all data. (The paper's γ is
α/r; its code's, and so this, α/√r.) In training dropout is drawn for each class, so the prompts share no prefix then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewclip.clip.model import CLIP
from fewclip.clip.tokens import Beside, Place, Stem, TextTokens
from fewclip.errors import SettingsError
from fewclip.methods import frozen
from fewclip.methods.base import SCALE, Images, unit
from fewclip.methods.classes import ClassTexts
from fewclip.methods.cosine import CosineMethod
from fewclip.methods.settings import Count, Range, Settings, Weight

if TYPE_CHECKING:
    from jaxtyping import Float

    from fewclip.clip.groups import TextGroups

PLACES: dict[str, Place] = {"q": "query", "k": "key", "v": "value", "o": "output"}


@dataclass(frozen=True, kw_only=True)
class CLIPLoRASettings(Settings):
    rank: Count = 2
    """r: rank of each update."""
    alpha: Weight = 1.0
    """α: an update is multiplied by α/√r."""
    projections: str = "qkv"
    """Which projections: letters of q, k, v and o (the output projection)."""
    layers: Literal["all", "bottom", "mid", "up", "half-bottom", "half-up", "top3"] | tuple[int, ...] = "all"
    """Which layers of a tower: all, a third, a half, the last three, or numbers counted from 1."""
    towers: Literal["both", "image", "text"] = "both"
    """Which towers are updated."""
    dropout: Annotated[float, Range(0, 1, below=True)] = 0.25
    """Share of an update's inputs that is dropped in training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        letters = set(self.projections)
        if not letters or letters - set(PLACES) or len(letters) < len(self.projections):
            raise SettingsError(
                f"projections is {self.projections!r}, but it must be letters of qkvo, each once, such as qkv."
            )
        if not isinstance(self.layers, str) and min(self.layers, default=0) < 1:
            raise SettingsError(f"layers is {self.layers}, but layers are counted from 1: give at least one.")


class Updates(nn.Module):
    """Factors of one tower's updates: A (n, p, r, width), B (n, p, width, r), one row per layer and projection."""

    def __init__(self, layers: list[int], projections: int, width: int, rank: int) -> None:
        super().__init__()
        self.layers = layers
        bound = width**-0.5
        self.down = nn.Parameter(torch.empty(len(layers), projections, rank, width).uniform_(-bound, bound))
        self.up = nn.Parameter(torch.zeros(len(layers), projections, width, rank))


class CLIPLoRA(CosineMethod):
    name = "clip-lora"
    title = "CLIP-LoRA"
    paper = "Zanella and Ben Ayed, CVPR Workshops 2024"
    trained = "low-rank updates of the attention projections of both towers"
    parameters_b16 = "184,320"
    new_classes = "the same updated towers"
    Settings = CLIPLoRASettings
    train_settings: ClassVar[dict[str, Any]] = {
        "lr": 2e-4,
        "weight_decay": 0.01,
        "batch_size": 32,
        "epochs": 0,
        "steps_per_shot": 500,
        "schedule": "step",
        "warmup_epochs": 0,
        "min_lr": 1e-6,
        "crop_min": 0.08,
    }
    keep_last = True
    settings: CLIPLoRASettings

    def __init__(self, clip: CLIP, settings: CLIPLoRASettings | None = None, classes: int = 0) -> None:
        super().__init__(clip, settings, classes)
        s, config = self.settings, clip.config
        count = len(s.projections)
        self.places = [PLACES[letter] for letter in s.projections]
        self.image, self.text = None, None
        if s.towers != "text":
            self.image = Updates(chosen(s.layers, config.vision_layers), count, config.vision_width, s.rank)
        if s.towers != "image":
            self.text = Updates(chosen(s.layers, config.text_layers), count, config.text_width, s.rank)

    @property
    def scale(self) -> Tensor:
        return self.clip.logit_scale.new_tensor(SCALE)

    def drop(self, updates: Updates, layer: int, place: Place, x: Tensor) -> Tensor:
        """Dropout on the input of an update only; the frozen projection sees all of it."""
        return F.dropout(x, self.settings.dropout, self.training)

    def beside(self, updates: Updates | None) -> Beside | None:
        """What the updates of a tower add to its projections."""
        if updates is None:
            return None
        gain = self.settings.alpha / math.sqrt(self.settings.rank)

        def add(layer: int, place: Place, x: Tensor) -> Tensor | None:
            if layer not in updates.layers or place not in self.places:
                return None
            row = updates.layers.index(layer), self.places.index(place)
            x = self.drop(updates, layer, place, x)
            return gain * (x @ updates.down[row].T) @ updates.up[row].T

        return add

    def prepare(self, texts: ClassTexts) -> None:
        # Dropout is drawn for every class, also in what the prompts have in common.
        self._read = self.read(texts, share=not self.settings.dropout)

    def read(self, texts: ClassTexts, share: bool = True) -> TextGroups[Stem[TextTokens]]:
        """The template's prompts at the first layer with an update; `share`: they share their prefix."""
        prompts = texts.prompts(texts.template)
        first = min(self.text.layers) if self.text is not None else 1
        return self.clip.text_groups(prompts if share else prompts.until(0), first)

    def class_features(self, read: TextGroups[Stem[TextTokens]]) -> Float[Tensor, "classes dim"]:
        return unit(self.clip.text_features(read, beside=self.beside(self.text)))

    def image_features(self, images: Images) -> Float[Tensor, "batch dim"]:
        if self.image is None:
            return frozen.image_features(self.clip, images)
        stem = self.clip.visual.stem(images, min(self.image.layers))
        return unit(self.clip.visual.features(stem, beside=self.beside(self.image)))


def chosen(which: str | Sequence[int], depth: int) -> list[int]:
    """The layers of that name, counted from 1.

    Raises:
        SettingsError: a number beyond the last layer.
    """
    if not isinstance(which, str):
        if max(which) > depth:
            raise SettingsError(f"layers is {tuple(which)}, but this backbone's layers are 1 to {depth}.")
        return sorted(which)
    third, half = depth // 3, depth // 2
    spans = {
        "all": (0, depth),
        "bottom": (0, third),
        "mid": (third, 2 * third),
        "up": (2 * third, depth),
        "half-bottom": (0, half),
        "half-up": (half, depth),
        "top3": (max(0, depth - 3), depth),
    }
    return [number + 1 for number in range(*spans[which])]
