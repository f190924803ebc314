"""CoCoOp: a small network turns each image's feature into a shift of the context, so every image has its own prompts.

Zhou, Yang, Loy and Liu, "Conditional Prompt Learning for Vision-Language Models", CVPR 2022 (arXiv 2203.05557), eq. 3:
v_m(x) = v_m + h(f(x)), p(y|x) ∝ exp(cos(f, g(t_y(x))) / τ).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fewclip.clip.model import CLIP
from fewclip.clip.prompts import Prompts
from fewclip.methods.base import Images, Logits, Seen, normal, unit
from fewclip.methods.classes import ClassTexts
from fewclip.methods.context import Slots, sentence, start_from_words
from fewclip.methods.coop import coop_training
from fewclip.methods.cosine import CosineMethod
from fewclip.methods.settings import Count, Settings

if TYPE_CHECKING:
    from jaxtyping import Float

PROMPTS_AT_ONCE = 2048
"""Image-specific prompts that scoring keeps in memory together."""


@dataclass(frozen=True, kw_only=True)
class CoCoOpSettings(Settings):
    context_tokens: Count = 4
    """M: learned vectors."""
    words: str = "a photo of a"
    """Words whose embeddings they start from, if there are at least M; else they start from N(0, 0.02²)."""
    reduction: Count = 16
    """Factor by which the network's hidden layer is narrower than the joint space."""


class CoCoOp(CosineMethod):
    name = "cocoop"
    title = "CoCoOp"
    paper = "Zhou et al., CVPR 2022"
    trained = "context vectors of the prompt, a network from image features to their shift"
    parameters_b16 = "35,360"
    new_classes = "prompts made for each image, with the new name"
    Settings = CoCoOpSettings
    train_settings = coop_training(epochs=10, batch_size=1)
    settings: CoCoOpSettings

    def __init__(self, clip: CLIP, settings: CoCoOpSettings | None = None, classes: int = 0) -> None:
        super().__init__(clip, settings, classes)
        dim, width = clip.config.embed_dim, clip.config.text_width
        hidden = max(1, dim // self.settings.reduction)
        self.context = normal(self.settings.context_tokens, width)
        self.meta_net = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def prompts(self, texts: ClassTexts) -> Prompts:
        """One sentence per class, the same whatever the template; its first words are replaced by the context."""
        return texts.prompts(sentence(self.settings.context_tokens, self.settings.words))

    def prepare(self, texts: ClassTexts) -> None:
        start_from_words(self.context, self.settings.words, self.clip, self.prompts(texts))
        super().prepare(texts)

    def read(self, texts: ClassTexts) -> Slots:
        """The prompts without the context, which depends on the image."""
        return Slots(self.clip, self.prompts(texts), self.settings.context_tokens)

    def text_features(self, slots: Slots, shift: Float[Tensor, "batch width"]) -> Float[Tensor, "batch classes dim"]:
        """Every image's own class features, L2-normalised."""
        return unit(self.clip.text_features(slots.fill(self.context + shift[:, None])))

    def logits(self, f: Float[Tensor, "batch dim"], w: Float[Tensor, "batch classes dim"]) -> Logits:
        return self.scale * (w @ f[..., None]).squeeze(-1)

    def outputs(self, images: Images) -> dict[str, Tensor]:
        f = self.image_features(images)
        shift = self.meta_net(f)
        w = self.text_features(self._read, shift)
        return {"image_features": f, "text_features": w, "ctx_bias": shift, "logits": self.logits(f, w)}

    def scores(self, images: Images, classes: Slots, seen: Seen) -> Logits:
        """scale · cos(f_b, w_bc), a few images at a time."""
        parts = self.image_features(images).split(max(1, PROMPTS_AT_ONCE // len(classes)))
        return torch.cat([self.logits(f, self.text_features(classes, self.meta_net(f))) for f in parts])
