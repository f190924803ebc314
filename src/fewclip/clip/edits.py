"""Edits: what a few-shot method does to the tokens before a layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fewclip.clip.tokens import TextTokens

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class Insertion:
    """Tokens that enter directly behind position 0 at layer `first` and are renewed before each later layer.

    `tokens` (layers, K, width), or one tensor (…, K, width) a layer, holds those of layer `first`, `first` + 1, …;
    behind its last layer they go on as they are. Renewal replaces what the layer before left there, or composes:
    `mix` · new + (1 - `mix`) · old. With `there`, K tokens stand there already and layer `first` renews them too.
    Works on a tensor (…, N, width) and, for prompts, on the shared prefix.
    """

    first: int
    tokens: Float[Tensor, "layers k width"] | Sequence[Tensor]
    mix: float = 1.0
    there: bool = False

    def image(self, layer: int, x: Float[Tensor, "*batch n width"]) -> Float[Tensor, "*batch m width"]:
        """The edit of an image tower."""
        index = layer - self.first
        if not 0 <= index < len(self.tokens):
            return x
        new = self.tokens[index].expand(*x.shape[:-2], -1, -1)
        count = new.shape[-2]
        if index == 0 and not self.there:
            return torch.cat([x[..., :1, :], new, x[..., 1:, :]], dim=-2)
        if self.mix != 1:
            new = self.mix * new + (1 - self.mix) * x[..., 1 : 1 + count, :]
        return torch.cat([x[..., :1, :], new, x[..., 1 + count :, :]], dim=-2)

    def text(self, layer: int, tokens: TextTokens) -> TextTokens:
        """The edit of a text tower: the same tokens for every class, so they stand in the prefix."""
        return tokens._replace(prefix=self.image(layer, tokens.prefix))
