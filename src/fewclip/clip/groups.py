"""Many classes: prompts of similar length together, within the memory that there is.

A batch of suffixes is as long as its longest class name; sorted into groups by length, short names don't pay for long
ones. Each group is a `Stem`, so an edit sees them one after the other: it must treat every class alike, as an edit of
the prefix does, or be told which classes it sees (`TextGroups.features`). The prefix (a dozen tokens) is computed
once per group.

What the backward pass of a group needs is kept while it fits into an eighth of the memory; the groups beyond are
computed again in the backward pass (`torch.utils.checkpoint`), which gives the same numbers for half as much time again.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fewclip.clip.prompts import Prompts

if TYPE_CHECKING:
    from jaxtyping import Int

    from fewclip.clip.tokens import TextTokens

Part = TypeVar("Part")

GROUP_COST = {"cpu": 64, "cuda": 4096}
"""How many padding tokens cost as much time as one more group."""
GROUP_TOKENS = {"cpu": 4096, "cuda": 65536}
"""The most suffix tokens per group: on a CPU their hidden states then fit the cache and are allocated from freed memory."""


@dataclass(frozen=True)
class TextGroups(Generic[Part]):
    """Groups of classes: what is constant of each, such as its stem, and which classes it holds.

    `share`: how many such collections a step computes; each may keep that part of the memory.
    """

    stems: list[Part]
    rows: list[Int[Tensor, " group"]]
    share: int = 1

    def features(
        self,
        run: Callable[[Part, Int[Tensor, " group"]], Tensor],
        kept: Callable[[Part], int],
        dim: int = -2,
        keep_bytes: int | None = None,
    ) -> Tensor:
        """`run` over each group and the numbers of its classes, in the order of the classes, along `dim`.

        `kept`: bytes that a group keeps for the backward pass. `keep_bytes`: how many may be kept, by default an eighth of
        the machine's or the GPU's memory.
        """
        left = _memory(self.rows[0].device) // (8 * self.share) if keep_bytes is None else keep_bytes
        out = []
        for stem, rows in zip(self.stems, self.rows, strict=True):
            left -= kept(stem) if torch.is_grad_enabled() else 0
            out.append(run(stem, rows) if left >= 0 else checkpoint(run, stem, rows, use_reentrant=False))
        return torch.cat(out, dim).index_select(dim, torch.cat(self.rows).argsort())


def pieces(prompts: Prompts, device: torch.device) -> list[tuple[Prompts, Int[Tensor, " group"]]]:
    """The prompts of each group, and their row numbers. An exported graph takes all in one: how many classes of what
    length there are is not known there."""
    if torch.compiler.is_compiling():
        return [(prompts, torch.arange(prompts.tokens.shape[0]))]
    return [(prompts.only(rows), torch.tensor(rows, device=device)) for rows in group(prompts, device)]


def group(
    prompts: Prompts, device: torch.device, *, cost: int | None = None, most: int | None = None
) -> list[list[int]]:
    """The rows of each group: the split by length that computes least, then in pieces of at most `most` tokens."""
    cost = GROUP_COST.get(device.type, 4096) if cost is None else cost
    most = GROUP_TOKENS.get(device.type, 65536) if most is None else most
    lengths = (prompts.eot - prompts.prefix + 1).tolist()
    rows = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
    groups = []
    for start, end in split([lengths[row] for row in rows], cost):
        pieces = -(-(end - start) * lengths[rows[end - 1]] // most)
        size = -(-(end - start) // pieces)
        groups += [sorted(rows[i : min(i + size, end)]) for i in range(start, end, size)]
    return groups


def split(lengths: list[int], cost: int) -> list[tuple[int, int]]:
    """Cut a sorted list into runs [start, end) so that Σ (run's size · its longest + cost) is least."""
    ends = [i + 1 for i, length in enumerate(lengths) if i + 1 == len(lengths) or lengths[i + 1] != length]
    best: dict[int, tuple[int, list[tuple[int, int]]]] = {0: (0, [])}
    for end in ends:
        best[end] = min(
            (total + (end - start) * lengths[end - 1] + cost, [*runs, (start, end)])
            for start, (total, runs) in best.items()
        )
    return best[len(lengths)][1]


def layer_bytes(tokens: TextTokens, computed: int | None = None) -> int:
    """What one layer keeps for the backward pass: ten widths a token, and the prefix's keys and values with each class.

    `computed`: how many tokens per class are computed, if not all of its suffix.
    """
    classes, suffix, width = tokens.suffix.shape[-3:]
    copies = tokens.suffix.shape[:-3].numel()
    per_class = 10 * (suffix if computed is None else computed) + 2 * (suffix + tokens.prefix.shape[-2])
    return copies * classes * per_class * width * tokens.suffix.element_size()


@cache
def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not on Windows
        return 8 << 30
