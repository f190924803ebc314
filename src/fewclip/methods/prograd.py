"""ProGrad: CoOp that drops from each gradient what would unlearn the zero-shot predictions.

Zhu, Niu, Han, Wu and Zhang, "Prompt-aligned Gradient for Prompt Tuning", ICCV 2023 (arXiv 2205.14865), eq. 4-5: where
the cross-entropy's gradient a and the distillation's b point apart, a loses its component along b.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fewclip.methods import frozen
from fewclip.methods.base import Images, Labels, Step
from fewclip.methods.classes import ClassTexts
from fewclip.methods.context import embed_words
from fewclip.methods.coop import CoOp, CoOpSettings, coop_training
from fewclip.methods.settings import Count, Positive, Weight


@dataclass(frozen=True, kw_only=True)
class ProGradSettings(CoOpSettings):
    """Settings of ProGrad: CoOp's and two more."""

    context_tokens: Count = 16
    """M: learned vectors."""
    words: str = "template"
    """Words that the last of them start from, the others from zero; "template" takes those of the template. Without
    words all start from N(0, 0.02²)."""
    strength: Weight = 1.0
    """λ: share of the conflicting component that is dropped; 0 is CoOp."""
    temperature: Positive = 1.0
    """τ of the distillation."""


class ProGrad(CoOp):
    name = "prograd"
    title = "ProGrad"
    paper = "Zhu et al., ICCV 2023"
    trained = "context vectors of the prompt"
    parameters_b16 = "8,192"
    new_classes = "the same context before the new name"
    Settings = ProGradSettings
    train_settings = coop_training(epochs=100)
    settings: ProGradSettings

    def words(self, template: str) -> str:
        """What the last vectors start from."""
        s = self.settings
        if s.class_specific:
            return ""
        return template.partition("{}")[0] if s.words == "template" else s.words

    @torch.no_grad()
    def prepare(self, texts: ClassTexts) -> None:
        super().prepare(texts)
        m = self.settings.context_tokens
        count = min(len(self.words(texts.template).split()), m)
        if count:
            self.context[: m - count] = 0
            self.context[m - count :] = embed_words(self.clip, self.prompts(texts), 1 + m - count, count)
        self._teacher = frozen.text_features(self.clip, texts.prompts(texts.template))  # (C, d)

    def loss(self, images: Images, labels: Labels) -> dict[str, Tensor]:
        """CE as `loss`, and as `loss_kl` the cross-entropy of the zero-shot predictions, τ²·mean_b Σ_c -p_c log q_c."""
        out = super().loss(images, labels)
        tau = self.settings.temperature
        teacher = (self.scale * out["image_features"] @ self._teacher.T / tau).softmax(-1)
        out["loss_kl"] = tau**2 * -(teacher * (out["logits"] / tau).log_softmax(-1)).sum(-1).mean()
        return out

    def step(self, step: Step) -> Tensor:
        """A step along a, less its component against b."""
        (loss, task), (_, guide) = step.gradients(self.loss, "loss", "loss_kl")
        step.update([self._aligned(a, b) for a, b in zip(task, guide, strict=True)])
        return loss

    def _aligned(self, a: Tensor | None, b: Tensor | None) -> Tensor | None:
        """a - λ·min(0, ⟨a, u⟩)·u with u = b/|b|, one inner product a tensor; a where b is nothing but rounding."""
        if a is None or b is None or b.norm() <= torch.finfo(b.dtype).tiny:
            return a
        u = b / b.norm()
        return a - self.settings.strength * (a * u).sum().clamp(max=0) * u
