"""MMRL++: MMRL with a sixth of the parameters, and tokens that keep part of the previous layer's output.

Guo and Gu, "MMRL++: Parameter-Efficient and Interaction-Aware Representation Learning for Vision-Language Models",
IJCV 2026 (arXiv 2505.10088). Equations: docs/equations.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fewclip.clip.model import CLIP
from fewclip.methods.mmrl import MMRL, MMRLSettings
from fewclip.methods.settings import Count, Share

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, kw_only=True)
class MMRLppSettings(MMRLSettings):
    """Settings of MMRL++: MMRL's and three more."""

    beta: Share = 0.9
    """β: share of a layer's own tokens; the rest is what the previous layer made of its tokens (progressive composition)."""
    residual_rank: Count = 4
    """Rank of each layer's residual to the shared map."""
    proj_rank: Count = 64
    """Rank of the representation projection's difference to CLIP's."""


class SharedResidualAligner(nn.Module):
    """R (W + A_i B_i)ᵀ + b_i: one map W for all layers, a low-rank residual and a bias a layer (SRRA)."""

    def __init__(self, layers: int, rep_dim: int, width: int, *, rank: int) -> None:
        super().__init__()
        start = nn.Linear(rep_dim, width)
        self.weight = nn.Parameter(start.weight.detach())  # W (width, d_r)
        self.bias = nn.Parameter(start.bias.detach().repeat(layers, 1))  # (n, width)
        self.up = nn.Parameter(torch.stack([kaiming(width, rank) for _ in range(layers)]))  # A (n, width, r)
        self.down = nn.Parameter(torch.zeros(layers, rank, rep_dim))  # B (n, r, d_r)

    def forward(self, space: Float[Tensor, "... k d_r"]) -> Float[Tensor, "n k width"]:
        residual = (space @ self.down.transpose(1, 2)) @ self.up.transpose(1, 2)
        return space @ self.weight.T + residual + self.bias[:, None]


class MMRLpp(MMRL):
    name = "mmrlpp"
    title = "MMRL++"
    paper = "Guo and Gu, IJCV 2026"
    parameters_b16 = "813,312"
    trained = "as MMRL, with shared maps and low-rank residuals"
    Settings = MMRLppSettings
    settings: MMRLppSettings

    def __init__(self, clip: CLIP, settings: MMRLppSettings | None = None, classes: int = 0) -> None:
        s = settings or MMRLppSettings()
        self.aligner = partial(SharedResidualAligner, rank=s.residual_rank)
        self.mix = s.beta
        super().__init__(clip, s, classes)

    def _build_projection(self, width: int, dim: int) -> None:
        self.proj_down = nn.Parameter(kaiming(width, self.settings.proj_rank))  # A (d_v, rank)
        self.proj_up = nn.Parameter(torch.zeros(self.settings.proj_rank, dim))  # B (rank, d)

    def _project(self, rep: Float[Tensor, "batch d_v"]) -> Float[Tensor, "batch d"]:
        return rep @ self.clip.visual.proj + (rep @ self.proj_down) @ self.proj_up  # P_r = P_c + A B


def kaiming(rows: int, columns: int) -> Float[Tensor, "rows columns"]:
    """Kaiming-uniform with a = √5, torch's own start of a linear layer's weight."""
    return nn.init.kaiming_uniform_(torch.empty(rows, columns), a=math.sqrt(5))
