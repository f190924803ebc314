"""CoOp: the words around the class name become free vectors, fitted by cross-entropy.

Zhou, Yang, Loy and Liu, "Learning to Prompt for Vision-Language Models", IJCV 2022 (arXiv 2109.01134), eq. 2-3:
t = [V]₁ … [V]_M [CLASS], p(y|x) ∝ exp(cos(f, g(t_y)) / τ). One context for all classes, or one for each (CSC).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fewclip.clip.model import CLIP
from fewclip.clip.prompts import Prompts
from fewclip.errors import SettingsError
from fewclip.methods.base import normal, unit
from fewclip.methods.context import Position, Slots, sentence, start_from_words
from fewclip.methods.cosine import CosineMethod

if TYPE_CHECKING:
    from jaxtyping import Float


def coop_training(**changes: Any) -> dict[str, Any]:
    """What the CoOp family trains with, SGD with momentum 0.9, a warm-up epoch, a cosine, and what a method changes."""
    return {"optimizer": "sgd", "lr": 2e-3, "epochs": 50, "batch_size": 32, "crop_min": 0.08} | changes


@dataclass(frozen=True, kw_only=True)
class CoOpSettings:
    """Settings of CoOp; defaults are those of its base-to-novel runs."""

    context_tokens: int = 4
    """M: learned vectors."""
    words: str = "a photo of a"
    """Words whose embeddings they start from, if there are at least M; else they start from N(0, 0.02²)."""
    position: Position = "end"
    """Where the class name stands."""
    class_specific: bool = False
    """A context for each class (CSC), from N(0, 0.02²); it can say nothing of new classes."""


class CoOp(CosineMethod):
    name = "coop"
    title = "CoOp"
    paper = "Zhou et al., IJCV 2022"
    trained = "context vectors of the prompt"
    parameters_b16 = "2,048"
    new_classes = "the same context before the new name (class-specific: none)"
    Settings = CoOpSettings
    train_settings = coop_training()
    sized_by_data = ("context",)
    settings: CoOpSettings

    def __init__(self, clip: CLIP, settings: CoOpSettings | None = None) -> None:
        super().__init__(clip, settings)
        if self.settings.context_tokens < 1:
            raise SettingsError(f"context_tokens is {self.settings.context_tokens}, but it must be at least 1.")
        self.context = normal(self.settings.context_tokens, clip.config.text_width)  # (M, d), CSC: (C, M, d)

    @classmethod
    def answers_new_with(cls, settings: CoOpSettings) -> bool:
        return not settings.class_specific

    def sentences(self, template: str) -> tuple[str, tuple[str, ...]]:
        words = "" if self.settings.class_specific else self.settings.words
        return sentence(self.settings.context_tokens, words), ()

    def prepare(self, prompts: Prompts) -> None:
        s = self.settings
        if s.class_specific:
            start = normal(len(prompts), s.context_tokens, self.clip.config.text_width)
            self.context.data = start.data.to(self.context)
        else:
            start_from_words(self.context, s.words, self.clip, prompts)
        super().prepare(prompts)

    def read(self, prompts: Prompts) -> tuple[Slots, Tensor]:
        s = self.settings
        slots = Slots(self.clip, prompts, s.context_tokens, s.position, s.class_specific)
        return slots, prompts.training_labels().to(self.clip.device)

    def class_features(self, read: tuple[Slots, Tensor]) -> Float[Tensor, "classes d"]:
        slots, labels = read
        context = self.context[labels] if self.settings.class_specific else self.context
        return unit(self.clip.text_features(slots.fill(context)))
