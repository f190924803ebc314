"""The ablations of the MMRL paper, as changes to examples/mmrl_plain.py: with default settings this is that program."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from mmrl_plain import PlainMMRL, Tokens
from torch import Tensor


class AblatedMMRL(PlainMMRL):
    def tokens(self) -> tuple[Tokens, Tokens]:
        """Tokens in one tower only; no shared space: image tokens mapped from text tokens, or all independent."""
        source: Any = self.method.tokens
        s = self.method.settings
        if s.image_tokens and s.text_tokens and s.space == "shared":
            return super().tokens()
        if s.space == "independent":
            return (list(source.image) if s.image_tokens else None), (list(source.text) if s.text_tokens else None)
        if s.space == "text-to-image":
            return [self.align(source.to_image, i, tokens) for i, tokens in enumerate(source.text)], list(source.text)
        aligner = source.to_image if s.image_tokens else source.to_text
        tokens = [self.align(aligner, i, source.space) for i in range(len(aligner.bias))]
        return (tokens, None) if s.image_tokens else (None, tokens)

    def features(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.method.settings.image_tokens:
            return super().features(images)
        # There is no f_r. With f_c in its place, both mixtures, of losses and of logits, are those of f_c only.
        f_c = self.image(images, None)[:, 0] @ self.clip.visual.proj
        f_c, w = F.normalize(f_c, dim=-1), F.normalize(self.text(self.tokens()[1]), dim=-1)
        return f_c, f_c, w

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        kind = self.method.settings.regulariser
        if kind == "cosine":
            return super().distance(a, b)
        return (a - b).abs().mean() if kind == "l1" else ((a - b) ** 2).mean()

    def probabilities(self, images: Tensor, seen: bool) -> Tensor:
        s = self.method.settings
        both = (s.seen_scores if seen else s.new_scores) == "both"
        if s.fusion == "logits" or not both:
            return super().probabilities(images, both)
        f_c, f_r, w = self.features(images)
        return s.alpha * (100 * f_c @ w.T).softmax(-1) + (1 - s.alpha) * (100 * f_r @ w.T).softmax(-1)
