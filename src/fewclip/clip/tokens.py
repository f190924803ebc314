"""What runs through the towers, and how a method may change it: prompts with a shared prefix, stems, edits, side branches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class TextTokens(NamedTuple):
    """Hidden states of C prompts that begin alike: the shared prefix once, then one suffix per class.

    Leading dimensions (none by default) hold independent copies, such as one per image. `eot` counts within the suffix.
    """

    prefix: Float[Tensor, "*copies prefix width"]
    suffix: Float[Tensor, "*copies classes suffix width"]
    eot: Int[Tensor, " classes"]

    def until(self, length: int) -> TextTokens:
        """The same with a prefix of at most `length` tokens: what follows goes into every suffix."""
        moved = self.prefix[..., length:, :]
        each = moved.unsqueeze(-3).expand(*self.suffix.shape[:-2], *moved.shape[-2:])
        suffix = torch.cat([each, self.suffix], dim=-2)
        return TextTokens(self.prefix[..., :length, :], suffix, self.eot + moved.shape[-2])


Tokens = TypeVar("Tokens", Tensor, TextTokens)


ImageEdit = Callable[[int, Tensor], Tensor]


TextEdit = Callable[[int, TextTokens], TextTokens]


Place = Literal["query", "key", "value", "output", "layer"]


Beside = Callable[[int, Place, Tensor], "Tensor | None"]
"""Called with (layer, place, input (..., width)), row by row: what to add to that place's output, or None. Places are
the four projections of attention, and `layer`: input the layer's first norm, output the layer's own."""


LayerBeside = Callable[[Place, Tensor], "Tensor | None"]


@dataclass(frozen=True)
class Stem(Generic[Tokens]):
    """The tokens that enter `layer`: everything below has been computed and carries no gradient."""

    layer: int
    tokens: Tokens

    def __getitem__(self: Stem[Tensor], rows: Any) -> Stem[Tensor]:
        return Stem(self.layer, self.tokens[rows])


@dataclass(frozen=True)
class Insertion:
    """Tokens that enter directly after position 0 at layer `first` and are renewed before each later layer.

    `tokens` (layers, K, width), or one tensor (…, K, width) a layer, holds those of layer `first`, `first` + 1, …;
    after the last of these layers they continue unchanged. Renewal replaces what the layer before left there, or composes:
    `mix` · new + (1 - `mix`) · old. With `there`, the K tokens exist already and layer `first` renews them too.
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
        """The edit of a text tower: the same tokens for every class, so they are part of the prefix."""
        return tokens._replace(prefix=self.image(layer, tokens.prefix))
