"""Learned context: vectors in the place of a prompt's words, the idea of CoOp and its family.

A prompt is start token, M context vectors, class name, rest. What is not learned is embedded once; the context is put in
at every step. While it is the same for all classes and precedes the name, it is part of the prefix that the
text tower runs once for all classes. Classes go through it in groups of like length (clip/groups.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from fewclip.clip.groups import TextGroups, pieces
from fewclip.clip.model import CLIP
from fewclip.clip.prompts import Prompts
from fewclip.clip.tokens import Stem, TextTokens

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Position = Literal["end", "middle", "front"]
"""Where the class name is: after the context, in the middle of it, or before it."""


def sentence(context_tokens: int, words: str = "", tail: str = ".") -> str:
    """A sentence with room for the context before the class name: its first `context_tokens` words are replaced.

    These are `words`, with placeholders before them if they are fewer; further words stay.
    """
    given = words.split()
    return " ".join(["X"] * (context_tokens - len(given)) + given + ["{}"]) + tail


def embed_words(clip: CLIP, prompts: Prompts, first: int, count: int) -> Float[Tensor, "count width"]:
    """Embeddings of `count` tokens from position `first` on, the same in all prompts."""
    return clip.token_embedding(prompts.tokens[0, first : first + count].to(clip.device)).detach()


@torch.no_grad()
def start_from_words(context: Float[Tensor, "m width"], words: str, clip: CLIP, prompts: Prompts) -> None:
    """Context vectors start from the embeddings of the words that they replace, if there are as many words; else they stay
    as they are."""
    if len(words.split()) >= len(context):
        context.copy_(embed_words(clip, prompts, 1, len(context)))


class Slots:
    """Prompts in which the M tokens after the start token are replaced by context vectors.

    `own`: each class has its own. `position`: where the class name is; if not at the end, `names` gives the length of each
    name in tokens.
    `share`: how many such sets of prompts a step computes (`TextGroups`).
    """

    @torch.no_grad()
    def __init__(
        self,
        clip: CLIP,
        prompts: Prompts,
        context_tokens: int,
        position: Position = "end",
        own: bool = False,
        *,
        names: Int[Tensor, " classes"] | None = None,
        share: int = 1,
    ) -> None:
        before = {"end": context_tokens, "middle": context_tokens // 2, "front": 0}[position]
        longest = 1 if own else 1 + before if position != "end" else prompts.prefix
        groups = pieces(prompts.until(longest), clip.device)
        if position == "end":
            names = None
        self.groups = [
            _Group(clip, some, context_tokens, before, None if names is None else names[rows.cpu()])
            for some, rows in groups
        ]
        self.rows = [rows for _, rows in groups]
        self.own, self.share = own, share

    def __len__(self) -> int:
        return sum(map(len, self.rows))

    def fill(self, context: Float[Tensor, "*copies m width"]) -> TextGroups[Stem[TextTokens]]:
        """The tokens that enter layer 1. With `own`, `context` is (*copies, C, M, width)."""
        pairs = zip(self.groups, self.rows, strict=True)
        stems = [group.fill(context[..., rows, :, :] if self.own else context, self.own) for group, rows in pairs]
        return TextGroups(stems, self.rows, self.share)


class _Group:
    """The slots of prompts of like length."""

    def __init__(
        self, clip: CLIP, prompts: Prompts, context_tokens: int, before: int, names: Int[Tensor, " classes"] | None
    ) -> None:
        split = prompts.prefix
        order = _order(prompts, context_tokens, before, names).to(clip.device)
        length = order.shape[1]
        self.embedded = clip.token_embedding(prompts.tokens.to(clip.device))  # (C, L, width), without position
        self.prefix_order, self.suffix_order = order[0, :split], order[:, split:, None]
        self.prefix_position, self.suffix_position = (
            clip.positional_embedding[:length].detach().split([split, length - split])
        )
        self.eot = prompts.eot.to(clip.device) - split
        self.frozen_suffix: Tensor | None = None
        # Known without looking at the tokens, which are an input where this is traced for export
        if before == context_tokens and split > context_tokens:  # all slots are in the prefix
            self.frozen_suffix = self.embedded.take_along_dim(self.suffix_order, -2) + self.suffix_position

    def fill(self, context: Tensor, own: bool) -> Stem[TextTokens]:
        shared = context[..., 0, :, :] if own else context
        copies, embedded = shared.shape[:-2], self.embedded
        start = embedded[0].expand(*copies, -1, -1)
        prefix = torch.cat([start, shared], dim=-2)[..., self.prefix_order, :] + self.prefix_position
        if self.frozen_suffix is not None:
            suffix = self.frozen_suffix.expand(*copies, -1, -1, -1)
        else:
            each = context if own else context.unsqueeze(-3).expand(*copies, len(embedded), -1, -1)
            source = torch.cat([embedded.expand(*copies, -1, -1, -1), each], dim=-2)
            order = self.suffix_order.expand(*copies, -1, -1, -1)
            suffix = source.take_along_dim(order, -2) + self.suffix_position
        return Stem(1, TextTokens(prefix, suffix, self.eot))


def _order(
    prompts: Prompts, context_tokens: int, before: int, names: Int[Tensor, " classes"] | None
) -> Int[Tensor, "classes length"]:
    """For each position of a filled prompt, its source: a token of the prompt, or L + m for context vector m."""
    length = prompts.tokens.shape[1]
    context = list(range(length, length + context_tokens))
    rest = list(range(1 + context_tokens, length))
    if names is None:
        return torch.tensor([[0, *context, *rest]]).expand(len(prompts), -1)
    rows = [[0, *context[:before], *rest[:name], *context[before:], *rest[name:]] for name in names.tolist()]
    return torch.tensor(rows)
