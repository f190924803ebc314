"""CLIP-Adapter: a bottleneck after the image tower, blended with CLIP's own feature.

Gao, Geng, Zhang, Ma, Fang, Zhang, Li and Qiao, "CLIP-Adapter: Better Vision-Language Models with Feature Adapters", IJCV
2024 (arXiv 2110.04544), eq. 2-4: g = r·relu(relu(f A₁) A₂) + (1 - r)·f. The paper's second adapter, after the text
tower, brought no gain there and is neither in its code nor here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fewclip.clip.model import CLIP
from fewclip.methods.base import Images, unit
from fewclip.methods.coop import coop_training
from fewclip.methods.cosine import CosineMethod
from fewclip.methods.settings import Count, Settings, Share

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, kw_only=True)
class CLIPAdapterSettings(Settings):
    ratio: Share = 0.2
    """r: share of the adapter's output in the image feature."""
    reduction: Count = 4
    """Factor by which the bottleneck is narrower than the joint space."""


class CLIPAdapter(CosineMethod):
    name = "clip-adapter"
    title = "CLIP-Adapter"
    paper = "Gao et al., IJCV 2024"
    trained = "a bottleneck after the image tower"
    parameters_b16 = "131,072"
    new_classes = "CLIP's feature of the new name against the adapted image feature"
    Settings = CLIPAdapterSettings
    train_settings = coop_training()
    settings: CLIPAdapterSettings

    def __init__(self, clip: CLIP, settings: CLIPAdapterSettings | None = None, classes: int = 0) -> None:
        super().__init__(clip, settings, classes)
        dim = clip.config.embed_dim
        hidden = max(1, dim // self.settings.reduction)
        self.adapter = nn.Sequential(
            nn.Linear(dim, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, dim, bias=False), nn.ReLU()
        )

    def image_features(self, images: Images) -> Float[Tensor, "batch dim"]:
        with torch.no_grad():
            f = self.clip.visual.features(self.clip.visual.stem(images))
        return unit(self.settings.ratio * self.adapter(f) + (1 - self.settings.ratio) * f)
