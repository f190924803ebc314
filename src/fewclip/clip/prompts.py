"""A batch of tokenised prompts as one shared prefix and one suffix per class.

Attention in CLIP's text tower is causal. Two things follow, both exact (SPEC §7): nothing behind a prompt's EOT token
matters, so the batch is cut at its longest EOT (77 → about 12 tokens); and the hidden states of what all prompts share
at their start ("a photo of a") are the same for every class, so the tower runs them once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Int


@dataclass(frozen=True)
class Prompts:
    """Token ids (C, length), cut behind the longest EOT; each row's EOT position; how many tokens all rows share."""

    tokens: Int[Tensor, "classes length"]
    eot: Int[Tensor, " classes"]
    prefix: int

    @classmethod
    def from_tokens(cls, tokens: Int[Tensor, "classes context"], longest_prefix: int | None = None) -> Prompts:
        """From rows of token ids, in which EOT is the largest id (CLIP's vocabulary is ordered so).

        `longest_prefix` ends the prefix earlier: a method whose tokens differ from class to class sets it to where
        they begin. EOT itself is never part of the prefix.
        """
        eot = tokens.argmax(dim=1)
        tokens = tokens[:, : int(eot.max()) + 1]
        alike = (tokens == tokens[0]).all(dim=0)
        prefix = int(alike.long().cumprod(0).sum())
        prefix = min(prefix, int(eot.min()))
        if longest_prefix is not None:
            prefix = min(prefix, longest_prefix)
        return cls(tokens, eot, prefix)

    def __len__(self) -> int:
        return len(self.tokens)

    def only(self, rows: list[int]) -> Prompts:
        """Some of the classes, cut behind the longest EOT of these; the prefix stays as it is."""
        some = self[rows]
        return replace(some, tokens=some.tokens[:, : int(some.eot.max()) + 1])

    def __getitem__(self, rows: slice | list[int]) -> Prompts:
        """Some of the classes; the prefix stays as it is."""
        return Prompts(self.tokens[rows], self.eot[rows], self.prefix)
