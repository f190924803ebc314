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
from fewclip.methods.base import normal, unit
from fewclip.methods.classes import ClassTexts
from fewclip.methods.context import Position, Slots, sentence, start_from_words
from fewclip.methods.cosine import CosineMethod
from fewclip.methods.settings import Count, Settings

if TYPE_CHECKING:
    from jaxtyping import Float


def coop_training(**changes: Any) -> dict[str, Any]:
    """What the CoOp family trains with, SGD with momentum 0.9, a warm-up epoch, a cosine, and what a method changes."""
    return {"optimizer": "sgd", "lr": 2e-3, "epochs": 50, "batch_size": 32, "crop_min": 0.08} | changes


@dataclass(frozen=True, kw_only=True)
class CoOpSettings(Settings):
    """Settings of CoOp; defaults are those of its base-to-novel runs."""

    context_tokens: Count = 4
    """M: learned vectors."""
    words: str = "a photo of a"
    """Words whose embeddings they start from, if there are at least M; else they start from N(0, 0.02²)."""
    position: Position = "end"
    """Where the class name is."""
    class_specific: bool = False
    """A context for each class (CSC), from N(0, 0.02²); it can't score new classes."""


class CoOp(CosineMethod):
    name = "coop"
    title = "CoOp"
    paper = "Zhou et al., IJCV 2022"
    trained = "context vectors of the prompt"
    parameters_b16 = "2,048"
    new_classes = "the same context before the new name (class-specific: none)"
    Settings = CoOpSettings
    train_settings = coop_training()
    settings: CoOpSettings

    def __init__(self, clip: CLIP, settings: CoOpSettings | None = None, classes: int = 0) -> None:
        super().__init__(clip, settings, classes)
        own = (classes,) if self.settings.class_specific else ()
        self.context = normal(*own, self.settings.context_tokens, clip.config.text_width)  # (M, d), CSC: (C, M, d)

    @classmethod
    def answers_new_with(cls, settings: CoOpSettings) -> bool:
        return not settings.class_specific

    def words(self, template: str) -> str:
        """What the context starts from."""
        return "" if self.settings.class_specific else self.settings.words

    def prompts(self, texts: ClassTexts) -> Prompts:
        """One sentence per class; its first words are replaced by the context."""
        return texts.prompts(sentence(self.settings.context_tokens, self.words(texts.template)))

    def prepare(self, texts: ClassTexts) -> None:
        if not self.settings.class_specific:
            start_from_words(self.context, self.words(texts.template), self.clip, self.prompts(texts))
        super().prepare(texts)

    def read(self, texts: ClassTexts) -> tuple[Slots, Tensor]:
        """The prompts without the context, and each class's label in training."""
        s = self.settings
        names = None if s.position == "end" else texts.name_lengths
        slots = Slots(self.clip, self.prompts(texts), s.context_tokens, s.position, s.class_specific, names=names)
        return slots, texts.labels.to(self.clip.device)

    def class_features(self, read: tuple[Slots, Tensor]) -> Float[Tensor, "classes d"]:
        slots, labels = read
        context = self.context[labels] if self.settings.class_specific else self.context
        return unit(self.clip.text_features(slots.fill(context)))
