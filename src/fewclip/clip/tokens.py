"""What runs through the towers, and what a method may do to it: prompts with a shared prefix, stems, edits, besides."""

from __future__ import annotations

from collections.abc import Callable
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
        """The same with a prefix of at most `length` tokens: what it held beyond goes into every suffix."""
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
