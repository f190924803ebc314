"""A batch of tokenised prompts as one shared prefix and one suffix per class.

Attention in CLIP's text tower is causal. Two things follow, both exact (SPEC §7): nothing behind a prompt's EOT token
matters, so the batch is cut at its longest EOT (77 → about 12 tokens); and the hidden states of what all prompts share
at their start ("a photo of a") are the same for every class, so the tower runs them once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Int


@dataclass(frozen=True)
class Prompts:
    """Token ids (C, length), cut behind the longest EOT; each row's EOT position; how many tokens all rows share.

    `names` says how many tokens each class name has, for methods that move it. `templates` are further sentences about
    the same classes, for methods that ask for them (`Method.sentences`). `labels` are the classes' labels in training, -1
    for one that was not trained on; None where these are the training classes in order. `sentence` is the text that
    they were made from, with `{}` for the class name; empty where tokens were given.
    """

    tokens: Int[Tensor, "classes length"]
    eot: Int[Tensor, " classes"]
    prefix: int
    names: Int[Tensor, " classes"] | None = None
    templates: tuple[Prompts, ...] = ()
    labels: Int[Tensor, " classes"] | None = None
    sentence: str = ""

    @classmethod
    def from_tokens(
        cls,
        tokens: Int[Tensor, "classes context"],
        longest_prefix: int | None = None,
        *,
        names: Int[Tensor, " classes"] | None = None,
        templates: Sequence[Int[Tensor, "classes context"]] = (),
        labels: Int[Tensor, " classes"] | None = None,
    ) -> Prompts:
        """From rows of token ids, in which EOT is the largest id (CLIP's vocabulary is ordered so).

        `longest_prefix` ends the prefix earlier. EOT itself is never part of the prefix.
        """
        eot = tokens.argmax(dim=1)
        tokens = tokens[:, : int(eot.max()) + 1]
        alike = (tokens == tokens[0]).all(dim=0)
        prefix = int(alike.long().cumprod(0).sum())
        prefix = min(prefix, int(eot.min()))
        sentences = tuple(cls.from_tokens(template) for template in templates)
        prompts = cls(tokens, eot, prefix, names, sentences, labels)
        return prompts if longest_prefix is None else prompts.until(longest_prefix)

    def until(self, longest_prefix: int) -> Prompts:
        """The same with a prefix of at most that many tokens, for a method whose tokens differ from there on."""
        return replace(self, prefix=min(self.prefix, longest_prefix))

    def __len__(self) -> int:
        return len(self.tokens)

    def only(self, rows: list[int]) -> Prompts:
        """Some of the classes, cut behind the longest EOT of these; the prefix stays as it is."""
        some = self[rows]
        return replace(some, tokens=some.tokens[:, : int(some.eot.max()) + 1])

    def __getitem__(self, rows: slice | list[int]) -> Prompts:
        """Some of the classes; the prefix stays as it is."""
        return replace(
            self,
            tokens=self.tokens[rows],
            eot=self.eot[rows],
            names=None if self.names is None else self.names[rows],
            templates=tuple(template[rows] for template in self.templates),
            labels=None if self.labels is None else self.labels[rows],
        )

    def training_labels(self) -> Int[Tensor, " classes"]:
        """The labels, where none are given the row numbers."""
        return torch.arange(len(self)) if self.labels is None else self.labels
