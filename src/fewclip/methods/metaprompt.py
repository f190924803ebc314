"""MetaPrompt: deep prompts whose text side must also work on classes that a step did not train on.

Zhao, Wang, Jiang, Shen, Song, Li and Miao, "Learning Domain Invariant Prompt for Vision-Language Models", IEEE TIP 2024
(arXiv 2212.04196), algorithm 1, split by classes. Each tower's prompts are compared with the other tower's frozen
features: A = s·v·t0ᵀ, T = s·v0·tᵀ, Z = (A + T)/2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fewclip.clip.model import CLIP
from fewclip.clip.templates import SELECTED_TEMPLATES
from fewclip.methods import frozen
from fewclip.methods.base import Gradients, Images, Labels, Logits, Seen, Step, normal
from fewclip.methods.classes import ClassTexts
from fewclip.methods.context import Slots
from fewclip.methods.coop import coop_training
from fewclip.methods.deep import DeepPrompts
from fewclip.methods.settings import Count, Settings, Weight

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, kw_only=True)
class MetaPromptSettings(Settings):
    text_prompts: Count = 2
    """Tokens per layer of the text tower."""
    image_prompts: Count = 2
    """Tokens per layer of the image tower."""
    depth: Count = 12
    """Layers with learned tokens; all, if a tower has fewer."""
    meta_step: Weight = 0.2
    """m: length of the meta step, in learning rates."""
    restore: Literal["once", "always", "once-moving"] = "once"
    """Whether the text prompts return to where they were after each trial step. The published code does so only after
    the first ("once"), and under torch 1 also let momentum move the image prompts meanwhile ("once-moving")."""
    ensemble: bool = False
    """Frozen class features from eight sentences, as published for ImageNet, or from the template only."""


class MetaPrompt(DeepPrompts):
    name = "metaprompt"
    title = "MetaPrompt"
    paper = "Zhao et al., IEEE TIP 2024"
    trained = "tokens of all layers of both towers"
    parameters_b16 = "30,720"
    new_classes = "the same tokens before the new name, and its sentence"
    Settings = MetaPromptSettings
    train_settings = coop_training(lr=1.5e-3, epochs=8, batch_size=16)
    whole_batches = True  # a step looks for classes in its batch
    settings: MetaPromptSettings

    def __init__(self, clip: CLIP, settings: MetaPromptSettings | None = None, classes: int = 0) -> None:
        super().__init__(clip, settings, classes)
        s, config = self.settings, clip.config
        self.text = normal(min(s.depth, config.text_layers), s.text_prompts, config.text_width)  # (J, n_t, d_t)
        self.image = normal(min(s.depth, config.vision_layers), s.image_prompts, config.vision_width)  # (J, n_v, d_v)

    def frozen_text(self, texts: ClassTexts) -> Float[Tensor, "classes dim"]:
        """t0, of the template without its full stop, as published, and with `ensemble` of seven further sentences."""
        extra = SELECTED_TEMPLATES if self.settings.ensemble else ()
        return frozen.ensemble(self.clip, map(texts.prompts, (*extra, texts.template.removesuffix("."))))

    def prepare(self, texts: ClassTexts) -> None:
        super().prepare(texts)
        self._prompts = self.prompts(texts)
        self._frozen_text = self.frozen_text(texts)

    def outputs(self, images: Images) -> dict[str, Tensor]:
        return self._compare(images, (self.class_features(self._read), self._frozen_text))

    def _compare(self, images: Tensor, classes: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        t, t0 = classes
        v, v0 = self.image_features(images), frozen.image_features(self.clip, images)
        a, b = self.scale * v @ t0.T, self.scale * v0 @ t.T
        out = {"image_features": v, "text_features": t, "logits_image": a, "logits_text": b}
        return out | {"logits": (a + b) / 2}

    def loss(self, images: Images, labels: Labels) -> dict[str, Tensor]:
        """CE(Z) + CE(A) + CE(T)."""
        out = self.outputs(images)
        names = {"loss_mean": "logits", "loss_image": "logits_image", "loss_text": "logits_text"}
        out |= {name: F.cross_entropy(out[logits], labels) for name, logits in names.items()}
        return out | {"loss": out["loss_mean"] + out["loss_image"] + out["loss_text"]}

    def step(self, step: Step) -> Tensor:
        """A step on all classes; then, on each half, the gradient at prompts moved by a trial step on the other half."""
        ((loss, gradients),) = step.gradients(self.loss, "loss")
        step.update(gradients)
        order = self.class_order(step)
        half = (len(order) + 1) // 2
        groups = order[:half], order[half:]
        f0 = frozen.image_features(self.clip, step.images)
        start, queries, restored = self.text.detach().clone(), list[Tensor](), False
        present = [any(label in group for label in step.labels.tolist()) for group in groups]
        for own, other in ((0, 1), (1, 0)):
            if len(groups[own]) < 2 or not all(present):
                continue
            ((_, support),) = step.gradients(self._text_loss(f0, groups[other]), "loss")
            step.update(self._moving(support))
            ((_, query),) = step.gradients(self._text_loss(f0, groups[own]), "loss")
            queries += [g for g, p in zip(query, self.parameters(), strict=True) if p is self.text and g is not None]
            if self.settings.restore == "always" or not restored:
                self.text.data.copy_(start)
                restored = True
        for query_gradient in queries:
            self.text.data -= step.lr * self.settings.meta_step * query_gradient
        return loss

    def class_order(self, step: Step) -> list[int]:
        """The training classes, shuffled; the loop seeds each step by its number."""
        return torch.randperm(len(self._prompts)).tolist()

    def _text_loss(self, f0: Tensor, group: list[int]) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
        """CE of frozen images against the prompted text of a group of classes, over that group's images."""
        place = torch.full((len(self._prompts),), -1)
        place[group] = torch.arange(len(group))
        read = Slots(self.clip, self._prompts[group], self.settings.text_prompts)

        def loss(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            inside = place.to(labels.device)[labels]
            logits = self.scale * f0[inside >= 0] @ self.class_features(read).T
            return {"loss": F.cross_entropy(logits, inside[inside >= 0])}

        return loss

    def _moving(self, gradients: Gradients) -> Gradients:
        """With "once-moving", zeros in place of no gradient: the optimiser's momentum then keeps moving them."""
        if self.settings.restore != "once-moving":
            return gradients
        pairs = zip(gradients, self.parameters(), strict=True)
        return [torch.zeros_like(p) if g is None else g for g, p in pairs]

    def encode_classes(self, texts: ClassTexts) -> tuple[Tensor, Tensor]:
        return self.class_features(self.read(texts)), self.frozen_text(texts)

    def scores(self, images: Images, classes: tuple[Tensor, Tensor], seen: Seen) -> Logits:
        """Z of the candidate classes."""
        return self._compare(images, classes)["logits"]
