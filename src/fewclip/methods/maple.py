"""MaPLe: deep prompts in both towers, those of the image tower linear maps of those of the text tower.

Khattak, Rasheed, Maaz, Khan and Khan, "MaPLe: Multi-modal Prompt Learning", CVPR 2023 (arXiv 2210.03117), eq. 4-8:
tokens P_k enter text layers 1..J, F_k(P_k) the image layers of the same number; loss is cross-entropy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fewclip.clip.model import CLIP
from fewclip.methods.base import normal
from fewclip.methods.coop import coop_training
from fewclip.methods.deep import DeepPrompts
from fewclip.methods.settings import Count, Settings

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, kw_only=True)
class MaPLeSettings(Settings):
    prompt_tokens: Count = 2
    """n: tokens per layer, the same in both towers."""
    depth: Count = 9
    """J: layers with learned tokens; all, if a tower has fewer."""
    words: str = "a photo of a"
    """The text tokens of layer 1 start from the first n words; further words stay in the prompt."""


class MaPLe(DeepPrompts):
    name = "maple"
    title = "MaPLe"
    paper = "Khattak et al., CVPR 2023"
    trained = "tokens of the first text layers, maps from them to image tokens"
    parameters_b16 = "3,555,072"
    new_classes = "the same tokens before the new name"
    Settings = MaPLeSettings
    train_settings = coop_training(lr=3.5e-3, epochs=5, batch_size=4)
    settings: MaPLeSettings

    def __init__(self, clip: CLIP, settings: MaPLeSettings | None = None, classes: int = 0) -> None:
        super().__init__(clip, settings, classes)
        s, config = self.settings, clip.config
        self.words, text, image = s.words, config.text_width, config.vision_width
        depth = min(s.depth, config.text_layers, config.vision_layers)
        self.text = normal(depth, s.prompt_tokens, text)  # (J, n, d_t)
        first, deeper = nn.Linear(text, image), nn.Linear(text, image)  # all deeper maps start alike, as published
        maps = [first, *[deeper] * (depth - 1)]
        self.to_image = nn.Parameter(torch.stack([m.weight.detach() for m in maps]))  # (J, d_v, d_t)
        self.bias = nn.Parameter(torch.stack([m.bias.detach() for m in maps]))  # (J, d_v)

    def image_tokens(self) -> Float[Tensor, "depth n width"]:
        return self.text @ self.to_image.mT + self.bias[:, None]
