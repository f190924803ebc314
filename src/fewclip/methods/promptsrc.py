"""PromptSRC: independent deep prompts in both towers, kept from forgetting by frozen CLIP and by averaging over epochs.

Khattak, Wasim, Naseer, Khan, Yang and Khan, "Self-regulating Prompts: Foundational Model Adaptation without Forgetting",
ICCV 2023 (arXiv 2307.06948), eq. 3-6. The paper writes the feature constraints as L1 norms; the published code, and so
this, as means over all entries, and averages the divergence over images and classes. With the three weights 0 and
`average` off it is IVLP, independent vision-language prompting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from fewclip.clip.model import CLIP
from fewclip.clip.templates import imagenet_templates
from fewclip.methods import frozen
from fewclip.methods.base import Images, Labels, normal
from fewclip.methods.classes import ClassTexts
from fewclip.methods.coop import coop_training
from fewclip.methods.deep import DeepPrompts
from fewclip.methods.settings import Count, Positive, Settings, Weight

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, kw_only=True)
class PromptSRCSettings(Settings):
    text_prompts: Count = 4
    """Tokens per layer of the text tower."""
    image_prompts: Count = 4
    """Tokens per layer of the image tower."""
    text_depth: Count = 9
    """Text layers with learned tokens; all, if the tower has fewer."""
    image_depth: Count = 9
    """Image layers with learned tokens."""
    words: str = "a photo of a"
    """The text tokens of layer 1 start from the first of these words."""
    text_weight: Weight = 25.0
    """How strongly class features are held to the mean over 60 sentences (L1)."""
    image_weight: Weight = 10.0
    """How strongly image features are held to those of frozen CLIP (L1)."""
    logit_weight: Weight = 1.0
    """How strongly predictions are held to those of frozen CLIP (KL)."""
    average: bool = True
    """End with the mean of the prompts over the epochs, weighted by a Gaussian."""
    average_mean: float = 15.0
    """Mean of that Gaussian, in epochs."""
    average_std: Positive = 1.0
    """Standard deviation of that Gaussian, in epochs."""


class PromptSRC(DeepPrompts):
    name = "promptsrc"
    title = "PromptSRC"
    paper = "Khattak et al., ICCV 2023"
    trained = "tokens of the first layers of both towers"
    parameters_b16 = "46,080"
    new_classes = "the same tokens before the new name"
    Settings = PromptSRCSettings
    train_settings = coop_training(lr=2.5e-3, epochs=20, batch_size=4)
    templates: tuple[str, ...] = imagenet_templates()
    """Sentences whose mean feature holds the class features."""
    settings: PromptSRCSettings

    def __init__(self, clip: CLIP, settings: PromptSRCSettings | None = None, classes: int = 0) -> None:
        super().__init__(clip, settings, classes)
        s, config = self.settings, clip.config
        self.words = s.words
        self.text = normal(min(s.text_depth, config.text_layers), s.text_prompts, config.text_width)  # (J_t, n_t, d_t)
        self.image = normal(min(s.image_depth, config.vision_layers), s.image_prompts, config.vision_width)
        self._average: dict[str, Tensor] = {}

    @torch.no_grad()
    def prepare(self, texts: ClassTexts) -> None:
        super().prepare(texts)
        if self.settings.text_weight or self.settings.logit_weight:
            held = map(texts.prompts, self.templates)
            self._frozen_text = frozen.ensemble(self.clip, held, each_unit=False)  # t0 (C, d)
        self._average = {name: torch.zeros_like(p) for name, p in self.named_parameters()}

    def loss(self, images: Images, labels: Labels) -> dict[str, Tensor]:
        """CE(z) + 25·mean|w - w0| + 10·mean|f - f0| + KL(softmax z0 ‖ softmax z)/(B·C)."""
        s, out = self.settings, super().loss(images, labels)
        out["loss_ce"] = out["loss"]
        if s.text_weight:
            out["loss_text"] = s.text_weight * F.l1_loss(out["text_features"], self._frozen_text)
            out["loss"] = out["loss"] + out["loss_text"]
        if s.image_weight or s.logit_weight:
            f0 = frozen.image_features(self.clip, images)
            out["loss_image"] = s.image_weight * F.l1_loss(out["image_features"], f0)
            out["loss"] = out["loss"] + out["loss_image"]
        if s.logit_weight:
            z0 = self.scale * f0 @ self._frozen_text.T
            divergence = F.kl_div(out["logits"].log_softmax(-1), z0.log_softmax(-1), reduction="sum", log_target=True)
            out["loss_logits"] = s.logit_weight * divergence / z0.numel()
            out["loss"] = out["loss"] + out["loss_logits"]
        return out

    @torch.no_grad()
    def end_epoch(self, epoch: int, epochs: int) -> None:
        """Add this epoch's prompts to the average; after the last epoch the average takes their place."""
        if not self.settings.average:
            return
        weight = self.epoch_weights(epochs)[epoch - 1]
        for name, p in self.named_parameters():
            self._average[name] += weight.to(p) * p
            if epoch == epochs:
                p.copy_(self._average[name])

    def epoch_weights(self, epochs: int) -> Float[Tensor, " epochs"]:
        """exp(-(k - μ)²/(2σ²)) for k = 1..epochs, made to sum to 1."""
        k = torch.arange(1, epochs + 1, dtype=torch.float64)
        exponent = (k - self.settings.average_mean) / self.settings.average_std
        return (-0.5 * exponent.square()).softmax(0)

    def training_state(self) -> dict[str, Tensor]:
        return self._average
