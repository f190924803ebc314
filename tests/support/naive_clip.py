"""CLIP's two towers the way the methods' published code runs them, behind the interface of ours.

A method computes on it what it computes on `CLIP`, so loss and gradient must agree, but by other arithmetic: every class
goes through the text tower whole, with all positions of the context, from layer 1, at every step; no prefix is shared
and no layer below a method's first is kept; images run from layer 1 in every pass; all tokens of the last layer are
computed; attention is `nn.MultiheadAttention` with a dense mask, sequence first (examples/mmrl_plain.py). Text features that no
gradient runs through are constants of a run in the published code too, and are left to the fast way.
"""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from mmrl_plain import Layer
from torch import Tensor, nn

from fewclip.clip.groups import TextGroups, pieces
from fewclip.clip.image_tower import ImageTower
from fewclip.clip.layers import PROJECTIONS, Transformer
from fewclip.clip.model import CLIP
from fewclip.clip.prompts import Prompts
from fewclip.clip.tokens import Beside, ImageEdit, Stem, TextEdit, TextTokens

Kind = TypeVar("Kind", bound=nn.Module)


def naive_clip(clip: CLIP) -> CLIP:
    """A `CLIP` with the weights of another that computes as published."""
    twin = _twin(clip, NaiveCLIP)
    twin._modules["visual"] = _twin(clip.visual, NaiveImageTower)
    for tower in (twin, twin.visual):
        tower.__dict__["layers"] = NaiveLayers(tower.transformer)
    return twin


def _twin(module: nn.Module, kind: type[Kind]) -> Kind:
    twin = kind.__new__(kind)
    twin.__dict__.update(module.__dict__)
    twin._modules = dict(module._modules)
    return twin


class NaiveLayers:
    """A transformer over (N, B, width), layer by layer."""

    def __init__(self, transformer: Transformer) -> None:
        self.blocks = [Layer(transformer.layer(i), None) for i in range(1, len(transformer) + 1)]

    def run(self, number: int, x: Tensor, mask: Tensor | None, beside: Beside | None) -> Tensor:
        block = self.blocks[number - 1]
        block.mask = mask
        if beside is None:
            return block(x)
        y = block.ln_1(x)
        extras = [beside(number, place, y) for place in PROJECTIONS]
        if all(extra is None for extra in extras):
            out = block(x)
        else:
            x = x + attention(block, y, extras, mask)
            hidden = block.inner(block.ln_2(x))
            out = x + block.outer(hidden * torch.sigmoid(1.702 * hidden) if block.quick_gelu else F.gelu(hidden))
        extra = beside(number, "layer", y)
        return out if extra is None else out + extra


def attention(block: Layer, y: Tensor, extras: list[Tensor | None], mask: Tensor | None) -> Tensor:
    """`nn.MultiheadAttention` taken apart, as LoRA's code does, with something added to each projection."""
    attn, (length, batch, width) = block.attn, y.shape
    weights, biases = attn.in_proj_weight.chunk(3), attn.in_proj_bias.chunk(3)
    heads = []
    for weight, bias, extra in zip(weights, biases, extras, strict=True):
        x = F.linear(y, weight, bias)
        x = x if extra is None else x + extra
        heads.append(x.view(length, batch, attn.num_heads, -1).permute(1, 2, 0, 3))
    q, k, v = heads
    merged = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).permute(2, 0, 1, 3).reshape(length, batch, width)
    return F.linear(merged, attn.out_proj.weight, attn.out_proj.bias)


class NaiveImageTower(ImageTower):
    layers: NaiveLayers

    def parts(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x,)

    def stem(self, images: Tensor, layer: int = 1) -> Stem[Tensor]:
        """What enters layer 1, whichever is asked for."""
        return Stem(1, self.embed(images))

    def finish(
        self, stem: Stem[Tensor], edit: ImageEdit | None = None, read: int = 1, beside: Beside | None = None
    ) -> Tensor:
        x = stem.tokens.transpose(0, 1)
        for number in range(1, len(self.transformer) + 1):
            if edit is not None:
                x = edit(number, x.transpose(0, 1)).transpose(0, 1)
            x = self.layers.run(number, x, None, beside)
        return x.transpose(0, 1)[:, :read]

    def read_only(self, stem: Stem[Tensor], askers: Tensor) -> Tensor:
        """The tokens stand behind the others, and a mask forbids all to read them."""
        x = torch.cat([stem.tokens, askers.expand(len(stem.tokens), -1, -1)], dim=1).transpose(0, 1)
        count, length = askers.shape[-2], len(x)
        mask = torch.zeros(length, length).masked_fill(torch.arange(length) >= length - count, -torch.inf).to(x)
        for number in range(1, len(self.transformer) + 1):
            x = self.layers.run(number, x, mask, None)
        return self.ln_post(x.transpose(0, 1))[:, -count:] @ self.proj


class NaiveCLIP(CLIP):
    layers: NaiveLayers

    @torch.no_grad()
    def text_stem(self, prompts: Prompts, layer: int = 1) -> Stem[TextTokens]:
        """What enters layer 1, whichever is asked for."""
        return Stem(1, self.embed_prompts(prompts))

    def text_features(
        self,
        stem: Stem[TextTokens] | TextGroups[Stem[TextTokens]],
        edit: TextEdit | None = None,
        beside: Beside | None = None,
    ) -> Tensor:
        if not torch.is_grad_enabled():
            return super().text_features(stem, edit, beside)
        if isinstance(stem, TextGroups):
            return stem.features(lambda some, _: self.text_features(some, edit, beside), lambda _: 0)
        tokens = stem.tokens
        x, eot, shape = self.dense(tokens)
        for number in range(1, len(self.transformer) + 1):
            if edit is not None:
                here = self.split(x, tokens, shape)
                after = edit(number, here)
                if after.prefix is not here.prefix or after.suffix is not here.suffix:
                    tokens = after
                    x, eot, shape = self.dense(after)
            x = self.layers.run(number, x, causal(x), beside)
        x = self.ln_final(x)
        return (x[eot, torch.arange(x.shape[1])] @ self.text_projection).unflatten(0, shape)

    def dense(self, tokens: TextTokens) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        """Every prompt whole, (positions, prompts, width); where each ends; (*copies, classes)."""
        shape = tuple(tokens.suffix.shape[:-2])
        prefix = tokens.prefix.unsqueeze(-3).expand(*shape, *tokens.prefix.shape[-2:])
        x = torch.cat([prefix, tokens.suffix], dim=-2).flatten(0, -3)
        x = F.pad(x, (0, 0, 0, max(0, self.config.context_length - x.shape[1])))
        eot = (tokens.eot + prefix.shape[-2]).expand(shape).flatten()
        return x.transpose(0, 1), eot, shape

    @staticmethod
    def split(x: Tensor, tokens: TextTokens, shape: tuple[int, ...]) -> TextTokens:
        """The same as an edit sees it: the prefix of one class stands for that of all, which are equal."""
        each, prefix = x.transpose(0, 1).unflatten(0, shape), tokens.prefix.shape[-2]
        return TextTokens(each[..., 0, :prefix, :], each[..., prefix:, :], tokens.eot)

    def text_stages(self, prompts: Prompts) -> TextGroups[list[TextTokens]]:
        groups = pieces(prompts, self.device)
        return TextGroups([[self.embed_prompts(some)] for some, _ in groups], [rows for _, rows in groups])

    def text_read_only(self, stages: TextGroups[list[TextTokens]], askers: Tensor) -> Tensor:
        def run(stage: list[TextTokens], rows: Tensor) -> Tensor:
            x, eot, (classes,) = self.dense(stage[0])
            x = torch.cat([x, askers[:, None].expand(-1, classes, -1)])
            length, count = len(x), len(askers)
            position = torch.arange(length, device=x.device)
            forbidden = (position > position[:, None]) | (position > eot[:, None, None]) | (position >= length - count)
            mask = torch.zeros(forbidden.shape).masked_fill(forbidden, -torch.inf).to(x)
            mask = mask.repeat_interleave(self.config.text_heads, 0)
            for number in range(1, len(self.transformer) + 1):
                x = self.layers.run(number, x, mask, None)
            return self.ln_final(x.transpose(0, 1))[:, -count:] @ self.text_projection

        return stages.features(run, lambda _: 0, dim=0)


def causal(x: Tensor) -> Tensor:
    length = len(x)
    return torch.full((length, length), float("-inf"), dtype=x.dtype, device=x.device).triu(1)
