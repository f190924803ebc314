"""CLIP-Adapter: a bottleneck behind the image tower, blended with CLIP's own feature.

Gao, Geng, Zhang, Ma, Fang, Zhang, Li and Qiao, "CLIP-Adapter: Better Vision-Language Models with Feature Adapters", IJCV
2024 (arXiv 2110.04544), eq. 2-4: g = r·relu(relu(f A₁) A₂) + (1 - r)·f. The paper's second adapter, behind the text
tower, was no gain there and is not in its code, nor here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fewclip.clip.model import CLIP
from fewclip.errors import SettingsError
from fewclip.methods.base import unit
from fewclip.methods.coop import coop_training
from fewclip.methods.cosine import CosineMethod

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, kw_only=True)
class CLIPAdapterSettings:
    ratio: float = 0.2
    """r: share of the adapter's output in the image feature."""
    reduction: int = 4
    """How much narrower than the joint space the bottleneck is."""


class CLIPAdapter(CosineMethod):
    name = "clip-adapter"
    title = "CLIP-Adapter"
    paper = "Gao et al., IJCV 2024"
    trained = "a bottleneck behind the image tower"
    parameters_b16 = "131,072"
    new_classes = "CLIP's feature of the new name against the adapted image feature"
    Settings = CLIPAdapterSettings
    train_settings = coop_training()
    settings: CLIPAdapterSettings

    def __init__(self, clip: CLIP, settings: CLIPAdapterSettings | None = None, classes: int = 0) -> None:
        super().__init__(clip, settings, classes)
        if not 0 <= self.settings.ratio <= 1:
            raise SettingsError(f"ratio is {self.settings.ratio}, but it mixes two features and lies between 0 and 1.")
        dim = clip.config.embed_dim
        hidden = max(1, dim // self.settings.reduction)
        self.adapter = nn.Sequential(
            nn.Linear(dim, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, dim, bias=False), nn.ReLU()
        )

    def image_features(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        with torch.no_grad():
            f = self.clip.visual.features(self.clip.visual.stem(images))
        return unit(self.settings.ratio * self.adapter(f) + (1 - self.settings.ratio) * f)
