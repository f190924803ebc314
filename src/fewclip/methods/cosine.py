"""The shape that most methods share: a unit feature per image and per class, their cosine, cross-entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor

from fewclip.methods import frozen
from fewclip.methods.base import Images, Labels, Logits, Method, Seen
from fewclip.methods.classes import ClassTexts

if TYPE_CHECKING:
    from jaxtyping import Float


class CosineMethod(Method):
    """logits = scale · f wᵀ, loss = CE(logits, y). A subclass overrides the feature that it changes.

    Unless it does, features are frozen CLIP's. `read` is the constant part of the text side, computed once for a set of
    classes: by default the text features themselves.
    """

    def read(self, texts: ClassTexts) -> Any:
        """The constant part of the text side; here the template's unit text features (C, d)."""
        return frozen.text_features(self.clip, texts.prompts(texts.template))

    def class_features(self, read: Any) -> Float[Tensor, "classes dim"]:
        """w (C, d), L2-normalised, from what `read` returned."""
        return read

    def image_features(self, images: Images) -> Float[Tensor, "batch dim"]:
        """f (B, d), L2-normalised."""
        return frozen.image_features(self.clip, images)

    def prepare(self, texts: ClassTexts) -> None:
        self._read = self.read(texts)

    def logits(self, f: Tensor, w: Any) -> Logits:
        """Of the features of images and classes."""
        return self.scale * f @ w.T

    def outputs(self, images: Images) -> dict[str, Tensor]:
        """Features and logits (B, C) of a batch over the training classes."""
        f, w = self.image_features(images), self.class_features(self._read)
        return {"image_features": f, "text_features": w, "logits": self.logits(f, w)}

    def loss(self, images: Images, labels: Labels) -> dict[str, Tensor]:
        out = self.outputs(images)
        return out | {"loss": F.cross_entropy(out["logits"], labels)}

    def encode_classes(self, texts: ClassTexts) -> Any:
        return self.class_features(self.read(texts))

    def scores(self, images: Images, classes: Any, seen: Seen) -> Logits:
        """scale · cos(f, w), the same for known and new classes."""
        return self.logits(self.image_features(images), classes)
