"""ProVP: tokens at every image layer, mixed with the previous layer's output; images stay recognisable by frozen CLIP.

Xu, Zhu, Shen, Chen, Liao, Chen and Wang, "Progressive Visual Prompt Learning with Contrastive Feature Re-formation",
IJCV 2024 (arXiv 2304.08386), eq. 5-8. Published figures use the epoch that is best on the test images; here the last
epoch counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewclip.clip.model import CLIP
from fewclip.clip.tokens import Insertion
from fewclip.methods import frozen
from fewclip.methods.base import Images, Labels, unit
from fewclip.methods.coop import coop_training
from fewclip.methods.cosine import CosineMethod
from fewclip.methods.settings import Count, Settings, Share, Weight

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, kw_only=True)
class ProVPSettings(Settings):
    prompts: Count = 16
    """M: tokens per layer."""
    keep: Share = 0.01
    """α: share of the previous layer's output in a layer's tokens."""
    ref_weight: Weight = 1.0
    """Weight of the contrastive re-formation loss."""


class ProVP(CosineMethod):
    name = "provp"
    title = "ProVP-Ref"
    paper = "Xu et al., IJCV 2024"
    trained = "tokens of every image layer"
    parameters_b16 = "147,456"
    new_classes = "the same image features"
    Settings = ProVPSettings
    train_settings = coop_training(lr=0.1, epochs=100, weight_decay=1e-3)
    whole_batches = True  # re-formation contrasts the images of a batch
    settings: ProVPSettings

    def __init__(self, clip: CLIP, settings: ProVPSettings | None = None, classes: int = 0) -> None:
        super().__init__(clip, settings, classes)
        layers, width = clip.config.vision_layers, clip.config.vision_width
        bound = math.sqrt(6 / (3 * 14**2 + width))  # 14: the published constant, whatever the patch
        start = torch.empty(layers, self.settings.prompts, width).uniform_(-bound, bound)
        self.tokens = nn.Parameter(start)  # (L, M, v)

    def image_features(self, images: Images) -> Float[Tensor, "batch dim"]:
        visual = self.clip.visual
        edit = Insertion(1, self.tokens, mix=1 - self.settings.keep)
        return unit(visual.features(visual.stem(images), edit.image))

    def loss(self, images: Images, labels: Labels) -> dict[str, Tensor]:
        """CE(logits, y) + λ·CE(f f0ᵀ, (0, 1, …, B-1)), the second without temperature."""
        out = super().loss(images, labels)
        out["loss_ce"] = out["loss"]
        if self.settings.ref_weight:
            similar = out["image_features"] @ frozen.image_features(self.clip, images).T
            out["loss_ref"] = F.cross_entropy(similar, torch.arange(len(images), device=similar.device))
            out["loss"] = out["loss_ce"] + self.settings.ref_weight * out["loss_ref"]
        return out
