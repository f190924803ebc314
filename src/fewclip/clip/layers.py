"""The layers of both towers: over whole sequences, over prompts that share a prefix, and for tokens that read but are not read.

Parameter names are those of OpenAI's state dict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewclip.clip.kernels import Linear, linear, mlp
from fewclip.clip.tokens import LayerBeside, Place, TextTokens

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class Attention(nn.Module):
    """Multi-head attention with one fused projection, parameter names of `nn.MultiheadAttention`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = Linear(width, width)

    def _project(self, x: Tensor, start: int, count: int, beside: LayerBeside | None) -> tuple[Tensor, ...]:
        """The `count` projections from `start` on (0 query, 1 key, 2 value), each (..., heads, N, head width)."""
        width = x.shape[-1]
        rows = slice(start * width, (start + count) * width)
        out = linear(x, self.in_proj_weight[rows], self.in_proj_bias[rows]).unflatten(-1, (count, width))
        if beside is not None:
            names = PROJECTIONS[start : start + count]
            out = torch.stack([_plus(part, beside, n, x) for n, part in zip(names, out.unbind(-2), strict=True)], -2)
        return out.unflatten(-1, (self.heads, -1)).movedim(-3, 0).transpose(-3, -2).unbind(0)

    def _merge(self, heads: Tensor, beside: LayerBeside | None) -> Tensor:
        x = heads.transpose(-3, -2).flatten(-2)
        return _plus(self.out_proj(x), beside, "output", x)

    def forward(
        self, x: Tensor, askers: Tensor | None = None, causal: bool = False, beside: LayerBeside | None = None
    ) -> Tensor:
        """Self-attention over (..., N, width), or the attention of `askers` (..., K, width) to these tokens."""
        if askers is None:
            q, k, v = self._project(x, 0, 3, beside)
        else:
            (q,) = self._project(askers, 0, 1, beside)
            k, v = self._project(x, 1, 2, beside)
        return self._merge(F.scaled_dot_product_attention(q, k, v, is_causal=causal), beside)

    def branch(
        self,
        prefix: Tensor,
        suffix: Tensor,
        eot: Tensor | None = None,
        askers: Tensor | None = None,
        beside: LayerBeside | None = None,
    ) -> Tensor:
        """Causal attention of every class's suffix (..., C, S, width) to the shared prefix (..., P, width) and itself.

        With `askers` (..., C, K, width), these ask in place of the suffixes and see each up to its `eot` (C,).
        """
        kp, vp = self._project(prefix, 1, 2, beside)  # (..., heads, P, h)
        positions = torch.arange(suffix.shape[-2], device=suffix.device)
        if askers is None or eot is None:
            q, ks, vs = self._project(suffix, 0, 3, beside)  # (..., C, heads, S, h)
            allowed = positions[None, :] <= positions[:, None]  # (S, S)
        else:
            (q,) = self._project(askers, 0, 1, beside)
            ks, vs = self._project(suffix, 1, 2, beside)
            allowed = (positions <= eot[:, None])[:, None, None, :]  # (C, 1, 1, S)
        seen = allowed.new_ones((*allowed.shape[:-1], prefix.shape[-2]))
        shape = (*ks.shape[:-2], *kp.shape[-2:])
        k = torch.cat([kp.unsqueeze(-4).expand(shape), ks], dim=-2)
        v = torch.cat([vp.unsqueeze(-4).expand(shape), vs], dim=-2)
        mask = torch.cat([seen, allowed], dim=-1)
        return self._merge(F.scaled_dot_product_attention(q, k, v, attn_mask=mask), beside)


PROJECTIONS: tuple[Place, ...] = ("query", "key", "value")


def _plus(out: Tensor, beside: LayerBeside | None, place: Place, x: Tensor) -> Tensor:
    """The output of the frozen weights for x, plus what the method's side branch adds."""
    extra = None if beside is None else beside(place, x)
    return out if extra is None else out + extra


def pick(suffix: Float[Tensor, "*copies C S width"], eot: Int[Tensor, " C"]) -> Float[Tensor, "*copies C 1 width"]:
    """Of each class's suffix the token at `eot`."""
    return suffix.gather(-2, eot[:, None, None].expand(*suffix.shape[:-2], 1, suffix.shape[-1]))


class MLP(nn.Module):
    """Two linear layers; between them GELU, or with OpenAI's weights QuickGELU, x · sigmoid(1.702 x)."""

    def __init__(self, width: int, quick_gelu: bool, hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden or 4 * width
        self.c_fc = Linear(width, hidden)
        self.quick_gelu = quick_gelu
        self.c_proj = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return mlp(x, self.c_fc, self.c_proj, self.quick_gelu)


class Block(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, width: int, heads: int, quick_gelu: bool, hidden: int | None = None) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = MLP(width, quick_gelu, hidden)
        self.ln_2 = nn.LayerNorm(width)

    def forward(
        self, x: Tensor, read: int | None = None, causal: bool = False, beside: LayerBeside | None = None
    ) -> Tensor:
        asking = self.ln_1(x)
        askers = None if read is None else asking[..., :read, :]
        x = x[..., :read, :] + self.attn(asking, askers, causal, beside)
        return _plus(x + self.mlp(self.ln_2(x)), beside, "layer", asking[..., :read, :])

    def ask(self, askers: Tensor, x: Tensor) -> Tensor:
        """The layer for tokens (..., K, width) that read those of `x` and are read by none."""
        askers = askers + self.attn(self.ln_1(x), self.ln_1(askers))
        return askers + self.mlp(self.ln_2(askers))

    def branch(self, tokens: TextTokens, beside: LayerBeside | None = None) -> TextTokens:
        """One causal layer over prompts: the prefix once, the suffixes on top of it."""
        prefix, suffix = self.ln_1(tokens.prefix), self.ln_1(tokens.suffix)
        after = tokens.suffix + self.attn.branch(prefix, suffix, beside=beside)
        after = _plus(after + self.mlp(self.ln_2(after)), beside, "layer", suffix)
        if tokens.prefix.shape[-2] == 0:
            return TextTokens(tokens.prefix, after, tokens.eot)
        return TextTokens(self(tokens.prefix, causal=True, beside=beside), after, tokens.eot)

    def branch_last(self, tokens: TextTokens, beside: LayerBeside | None = None) -> Tensor:
        """The same layer where only EOT is read afterwards: (..., C, width)."""
        prefix, suffix = self.ln_1(tokens.prefix), self.ln_1(tokens.suffix)
        last = pick(suffix, tokens.eot)
        after = pick(tokens.suffix, tokens.eot) + self.attn.branch(prefix, suffix, tokens.eot, last, beside)
        return _plus(after + self.mlp(self.ln_2(after)), beside, "layer", last).squeeze(-2)

    def branch_ask(self, askers: Tensor, tokens: TextTokens) -> Tensor:
        """The same layer for tokens (..., C, K, width) that read each prompt up to EOT and are read by none."""
        prefix, suffix = self.ln_1(tokens.prefix), self.ln_1(tokens.suffix)
        askers = askers + self.attn.branch(prefix, suffix, tokens.eot, self.ln_1(askers))
        return askers + self.mlp(self.ln_2(askers))


class Transformer(nn.Module):
    def __init__(self, width: int, layers: int, heads: int, quick_gelu: bool, hidden: int | None = None) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads, quick_gelu, hidden) for _ in range(layers))

    def __len__(self) -> int:
        return len(self.resblocks)

    def layer(self, number: int) -> Block:
        """The layer of that number, counted from 1."""
        return cast("Block", self.resblocks[number - 1])
