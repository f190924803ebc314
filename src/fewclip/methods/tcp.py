"""TCP: a network turns each class's frozen text feature into tokens that enter the upper text layers for that class.

Yao, Zhang and Xu, "TCP: Textual-based Class-aware Prompt tuning for Visual-Language Model", CVPR 2024 (arXiv
2311.18231), eq. 3-7: P_c = h(w0_c) replaces the context at layer 9 of 12; L = CE + 8·(1 - mean cos(w, w0)).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor, nn

from fewclip.clip.model import CLIP
from fewclip.clip.prompts import Prompts
from fewclip.clip.tokens import Stem, TextTokens
from fewclip.errors import SettingsError
from fewclip.methods import frozen
from fewclip.methods.base import Images, Labels, cosine_gap, normal, unit
from fewclip.methods.classes import ClassTexts
from fewclip.methods.context import Slots, sentence
from fewclip.methods.coop import coop_training
from fewclip.methods.cosine import CosineMethod
from fewclip.methods.settings import Count, Range, Settings, Weight

if TYPE_CHECKING:
    from jaxtyping import Float

CLASS_TOKENS = 4


class QuickGELU(nn.Module):
    """x · sigmoid(1.702 x), in the network as published, whatever the backbone's."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


@dataclass(frozen=True, kw_only=True)
class TCPSettings(Settings):
    context_tokens: Annotated[int, Range(CLASS_TOKENS)] = 4
    """n: learned vectors before every class name, from N(0, 0.02²)."""
    class_layer: Count | None = None
    """Layer that the class's own tokens enter, counted from 1. By default after two thirds of the tower (9 of 12)."""
    kg_weight: Weight = 8.0
    """How strongly class features are held to those of the template's sentences."""
    reduction: Count = 4
    """Factor by which the network's hidden layer is narrower than the joint space."""


class TCP(CosineMethod):
    name = "tcp"
    title = "TCP"
    paper = "Yao et al., CVPR 2024"
    trained = "context vectors, a network from class features to tokens of an upper text layer"
    parameters_b16 = "331,904"
    new_classes = "tokens made from the new name's own feature"
    Settings = TCPSettings
    train_settings = coop_training(optimizer="adam", eps=1e-3)
    settings: TCPSettings

    def __init__(self, clip: CLIP, settings: TCPSettings | None = None, classes: int = 0) -> None:
        super().__init__(clip, settings, classes)
        s, width, layers = self.settings, clip.config.text_width, clip.config.text_layers
        self.layer = s.class_layer or 2 * layers // 3 + 1
        if self.layer > layers:
            raise SettingsError(f"class_layer is {s.class_layer}, but this backbone's text layers are 1 to {layers}.")
        hidden = max(1, clip.config.embed_dim // s.reduction)
        self.context = normal(s.context_tokens, width)  # (n, d_t)
        self.meta_net = nn.Sequential(
            nn.Linear(clip.config.embed_dim, hidden), QuickGELU(), nn.Linear(hidden, CLASS_TOKENS * width)
        )

    def prompts(self, texts: ClassTexts) -> Prompts:
        """The template; its first words are replaced by the context."""
        count = self.settings.context_tokens
        words, _, tail = texts.template.partition("{}")
        return texts.prompts(sentence(count, " ".join(["X"] * count + words.split()[count:]), tail))

    def read(self, texts: ClassTexts) -> tuple[Slots, Tensor]:
        """The prompts without the context, and the template's frozen features w0."""
        slots = Slots(self.clip, self.prompts(texts), self.settings.context_tokens)
        return slots, frozen.text_features(self.clip, texts.prompts(texts.template))

    def class_tokens(self, w0: Float[Tensor, "classes dim"]) -> Float[Tensor, "classes 4 width"]:
        return self.meta_net(w0).unflatten(-1, (CLASS_TOKENS, -1))

    def class_features(self, read: tuple[Slots, Tensor]) -> Float[Tensor, "classes dim"]:
        slots, w0 = read
        own = self.class_tokens(w0)

        def run(stem: Stem[TextTokens], rows: Tensor) -> Tensor:
            def enter(layer: int, tokens: TextTokens) -> TextTokens:
                """At that layer the shared prefix ends at the start token, and the class's own tokens follow it."""
                if layer != self.layer:
                    return tokens
                tokens = tokens.until(1)
                return tokens._replace(suffix=torch.cat([own[rows], tokens.suffix[:, CLASS_TOKENS:]], dim=1))

            return self.clip.text_features(stem, enter)

        return unit(slots.fill(self.context).features(run, self.clip.kept))

    def loss(self, images: Images, labels: Labels) -> dict[str, Tensor]:
        out = super().loss(images, labels)
        gap = self.settings.kg_weight * cosine_gap(out["text_features"], self._read[1])
        return out | {"loss_ce": out["loss"], "loss_kg": gap, "loss": out["loss"] + gap}
