"""A batch of tokenised prompts as one shared prefix and one suffix per class.

Attention in CLIP's text tower is causal. Two things follow, both exact (docs/equations.md §7): nothing after a prompt's
EOT token matters, so the batch is cut at its longest EOT (77 → about 12 tokens); and the hidden states of what all prompts
share at their start ("a photo of a") are the same for every class, so the tower computes them once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor


@dataclass(frozen=True)
class Prompts:
    """Token ids, cut after the longest EOT; each row's EOT position; how many leading tokens all rows share.

    Facts about tokens only: what the rows are sentences about is known to `fewclip.methods.classes.ClassTexts`.
    """

    tokens: Int[Tensor, "classes length"]
    eot: Int[Tensor, " classes"]
    prefix: int

    @classmethod
    def from_tokens(cls, tokens: Int[Tensor, "classes context"]) -> Prompts:
        """From rows of token ids, in which EOT is the largest id (CLIP's vocabulary is ordered so).

        EOT itself is never part of the prefix.
        """
        eot = tokens.argmax(dim=1)
        tokens = tokens[:, : int(eot.max()) + 1]
        alike = (tokens == tokens[0]).all(dim=0)
        prefix = int(alike.long().cumprod(0).sum())
        return cls(tokens, eot, min(prefix, int(eot.min())))

    def until(self, longest_prefix: int) -> Prompts:
        """The same with a prefix of at most that many tokens, for a method whose tokens differ from there on."""
        return replace(self, prefix=min(self.prefix, longest_prefix))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: slice | list[int]) -> Prompts:
        """Some of the rows; length and prefix stay as they are."""
        return replace(self, tokens=self.tokens[rows], eot=self.eot[rows])

    def only(self, rows: list[int]) -> Prompts:
        """Some of the rows, cut after the longest EOT among them; the prefix stays as it is."""
        some = self[rows]
        return replace(some, tokens=some.tokens[:, : int(some.eot.max()) + 1])
