"""Zero-shot CLIP: every class name becomes a sentence, the sentences' features a linear classifier.

Radford et al., ICML 2021. Nothing is trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fewclip.clip.prompts import Prompts
from fewclip.methods.base import Method, unit

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


@dataclass(frozen=True, kw_only=True)
class ZeroShotSettings:
    """Zero-shot CLIP has nothing to set."""


class ZeroShot(Method):
    name = "zero-shot"
    title = "CLIP zero-shot"
    paper = "Radford et al., ICML 2021"
    trained = "nothing"
    new_classes = "the same as of any class"
    Settings = ZeroShotSettings

    def loss(self, images: Float[Tensor, "batch 3 height width"], labels: Int[Tensor, " batch"]) -> dict[str, Tensor]:
        """Never called: without parameters there is no training."""
        raise RuntimeError("zero-shot CLIP has no parameters and so no training loss")

    def encode_classes(self, prompts: Prompts) -> Float[Tensor, "classes dim"]:
        """Unit text features w (C, d)."""
        return unit(self.clip.text_features(self.clip.text_groups(prompts)))

    def scores(
        self,
        images: Float[Tensor, "batch 3 height width"],
        classes: Float[Tensor, "classes dim"],
        seen: Bool[Tensor, " classes"],
    ) -> Float[Tensor, "batch classes"]:
        """exp(logit_scale) · cos(f, w)."""
        features = unit(self.clip.visual.features(self.clip.visual.stem(images)))
        return torch.exp(self.clip.logit_scale) * features @ classes.T
