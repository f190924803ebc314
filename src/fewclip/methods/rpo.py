"""RPO: tokens that read both towers and are read by none, so that CLIP's own features do not change.

Lee, Song, Suh, Choi, Lee and Kim, "Read-only Prompt Optimization for Vision-Language Few-shot Learning", ICCV 2023
(arXiv 2308.14960), eq. 3-8: logits = s/K · Σ_k cos(v_k, t_k). The tokens see neither themselves nor each other, so each
layer is an attention of K tokens to the frozen ones, which are computed without gradient and, for prompts, once per run.
Published runs use "a photo of a {}." for every data set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fewclip.clip.model import CLIP
from fewclip.clip.tokens import TextTokens
from fewclip.methods.base import Images, Logits, unit
from fewclip.methods.classes import ClassTexts
from fewclip.methods.coop import coop_training
from fewclip.methods.cosine import CosineMethod
from fewclip.methods.settings import Count, Settings, Weight

if TYPE_CHECKING:
    from jaxtyping import Float

    from fewclip.clip.groups import TextGroups


@dataclass(frozen=True, kw_only=True)
class RPOSettings(Settings):
    prompts: Count = 24
    """K: tokens in each tower."""
    noise: Weight = 0.1
    """Length of the random vector by which each starts away from EOT's embedding or the class token."""


class RPO(CosineMethod):
    name = "rpo"
    title = "RPO"
    paper = "Lee et al., ICCV 2023"
    trained = "read-only tokens of both towers"
    parameters_b16 = "30,720"
    new_classes = "the same tokens after the new name"
    Settings = RPOSettings
    train_settings = coop_training(lr=0.01, epochs=15, batch_size=4)
    settings: RPOSettings

    def __init__(self, clip: CLIP, settings: RPOSettings | None = None, classes: int = 0) -> None:
        super().__init__(clip, settings, classes)
        s = self.settings
        eot, start = clip.token_embedding.weight[-1], clip.visual.class_embedding
        self.text = nn.Parameter((eot + s.noise * unit(torch.randn(s.prompts, len(eot)).to(eot))).detach())  # (K, d_t)
        # (K, d_v)
        self.image = nn.Parameter((start + s.noise * unit(torch.randn(s.prompts, len(start)).to(start))).detach())

    def read(self, texts: ClassTexts) -> TextGroups[list[TextTokens]]:
        return self.clip.text_stages(texts.prompts(texts.template))

    def class_features(self, read: TextGroups[list[TextTokens]]) -> Float[Tensor, "classes k dim"]:
        return unit(self.clip.text_read_only(read, self.text))

    def image_features(self, images: Images) -> Float[Tensor, "batch k dim"]:
        visual = self.clip.visual
        return unit(visual.read_only(visual.stem(images), visual.ln_pre(self.image)))

    def logits(self, f: Float[Tensor, "batch k dim"], w: Float[Tensor, "classes k dim"]) -> Logits:
        """The mean over pairs of s · cos(v_k, t_k)."""
        return self.scale / len(self.text) * f.flatten(1) @ w.flatten(1).T
