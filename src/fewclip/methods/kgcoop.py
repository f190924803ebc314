"""KgCoOp: CoOp whose class features are held to those of a hand-written sentence.

Yao, Zhang and Xu, "Visual-Language Prompt Tuning with Knowledge-guided Context Optimization", CVPR 2023 (arXiv
2303.13283), eq. 3-4: L = CE + λ·L_kg. The paper writes L_kg as a squared distance; the published code, and so this, as
1 - cosine, which for unit features is half of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fewclip.methods import frozen
from fewclip.methods.base import Images, Labels, cosine_gap
from fewclip.methods.classes import ClassTexts
from fewclip.methods.coop import CoOp, CoOpSettings, coop_training
from fewclip.methods.settings import Weight


@dataclass(frozen=True, kw_only=True)
class KgCoOpSettings(CoOpSettings):
    """Settings of KgCoOp: CoOp's and one more."""

    kg_weight: Weight = 8.0
    """λ: how strongly class features are held to those of the template's sentences."""


class KgCoOp(CoOp):
    name = "kgcoop"
    title = "KgCoOp"
    paper = "Yao et al., CVPR 2023"
    trained = "context vectors of the prompt"
    new_classes = "the same context before the new name"
    Settings = KgCoOpSettings
    train_settings = coop_training(epochs=100, batch_size=128)
    settings: KgCoOpSettings

    def prepare(self, texts: ClassTexts) -> None:
        super().prepare(texts)
        self._frozen_text = frozen.text_features(self.clip, texts.prompts(texts.template))  # Z (C, d)

    def loss(self, images: Images, labels: Labels) -> dict[str, Tensor]:
        """CE + λ·(1 - mean_c cos(w_c, z_c))."""
        out = super().loss(images, labels)
        gap = cosine_gap(out["text_features"], self._frozen_text)
        return out | {"loss_ce": out["loss"], "loss_kg": gap, "loss": out["loss"] + self.settings.kg_weight * gap}
