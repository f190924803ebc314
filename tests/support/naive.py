"""MMRL and MMRL++ written straight from the equations (shared/SPEC.md), the way the published code is built.

The oracle of the tests and the yardstick of the benchmarks: two full CLIP passes for images, all context positions
for every class at every step, `nn.MultiheadAttention` with a dense float mask, sequence first. Nothing is cached,
shared or cut. It takes the parameters of our methods by name, so both compute from the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewclip.clip.layers import Block
from fewclip.clip.model import CLIP
from fewclip.methods.mmrl import MMRL
from fewclip.methods.mmrlpp import MMRLpp

Tokens = list[Tensor] | None


class NaiveBlock(nn.Module):
    """A transformer layer over (N, B, width)."""

    def __init__(self, block: Block, mask: Tensor | None) -> None:
        super().__init__()
        width = block.ln_1.normalized_shape[0]
        self.attn = nn.MultiheadAttention(width, block.attn.heads).to(block.attn.in_proj_weight)
        self.attn.load_state_dict(block.attn.state_dict())
        self.attn.requires_grad_(False)
        self.ln_1, self.ln_2, self.mask = block.ln_1, block.ln_2, mask
        self.inner, self.outer, self.quick_gelu = block.mlp.c_fc, block.mlp.c_proj, block.mlp.quick_gelu

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=self.mask)[0]
        hidden = F.linear(self.ln_2(x), self.inner.weight, self.inner.bias)
        hidden = hidden * torch.sigmoid(1.702 * hidden) if self.quick_gelu else F.gelu(hidden)
        return x + F.linear(hidden, self.outer.weight, self.outer.bias)


class NaiveMMRL:
    """Two towers with tokens, and two without."""

    def __init__(self, clip: CLIP, method: MMRL, token_ids: Tensor) -> None:
        self.clip, self.method, self.ids = clip, method, token_ids
        dtype, length = clip.positional_embedding.dtype, token_ids.shape[1]
        device = clip.positional_embedding.device

        def blocks(transformer: nn.Module, n: int | None) -> list[NaiveBlock]:
            mask = None if n is None else torch.full((n, n), float("-inf"), dtype=dtype, device=device).triu(1)
            return [NaiveBlock(block, mask) for block in transformer.resblocks]  # type: ignore[union-attr]

        k = method.settings.rep_tokens if method.settings.text_tokens else 0
        self.image_blocks = blocks(clip.visual.transformer, None)
        self.text_blocks = blocks(clip.transformer, length)
        self.long_text_blocks = blocks(clip.transformer, length + k)
        with torch.no_grad():
            self.frozen_text = self.normalise(self.text(None))

    @staticmethod
    def normalise(x: Tensor) -> Tensor:
        return x / x.norm(dim=-1, keepdim=True)

    def layer_tokens(self) -> tuple[Tokens, Tokens]:
        """Rv_i and Rt_i for i in J..L, one layer at a time."""
        source, s = self.method.tokens, self.method.settings

        def align(aligner: nn.Module, i: int, space: Tensor) -> Tensor:
            if isinstance(self.method, MMRLpp):
                return space @ (aligner.weight + aligner.up[i] @ aligner.down[i]).T + aligner.bias[i]  # type: ignore[operator, index]
            return F.linear(space, aligner.weight[i], aligner.bias[i])  # type: ignore[index]

        def aligned(aligner: nn.Module | None) -> Tokens:
            if aligner is None:
                return None
            return [align(aligner, i, source.space) for i in range(len(aligner.bias))]  # type: ignore[arg-type]

        if s.space == "shared":
            return aligned(source.to_image), aligned(source.to_text)
        text = list(source.text) if s.text_tokens else None
        if s.space == "text-to-image":
            assert text is not None
            assert source.to_image is not None
            return [align(source.to_image, i, t) for i, t in enumerate(text)], text
        return (list(source.image) if s.image_tokens else None), text

    def run(self, x: Tensor, plain: list[NaiveBlock], long: list[NaiveBlock], first: int, tokens: Tokens) -> Tensor:
        """All layers over (N, B, width), tokens entering behind position 0 at layer `first`."""
        beta = getattr(self.method.settings, "beta", 1.0)
        for i in range(1, len(plain) + 1):
            if tokens is not None and i >= first:
                new = tokens[i - first][:, None].expand(-1, x.shape[1], -1)
                k = len(new)
                if i == first:
                    x = torch.cat([x[:1], new, x[1:]])
                else:
                    x = torch.cat([x[:1], beta * new + (1 - beta) * x[1 : 1 + k], x[1 + k :]])
            x = (long if tokens is not None and i >= first else plain)[i - 1](x)
        return x

    def image(self, images: Tensor, tokens: Tokens) -> Tensor:
        visual = self.clip.visual
        patches = visual.conv1(images).flatten(2).permute(0, 2, 1)
        cls = visual.class_embedding + torch.zeros(len(images), 1, patches.shape[-1], dtype=images.dtype)
        x = visual.ln_pre(torch.cat([cls, patches], dim=1) + visual.positional_embedding)
        x = self.run(x.permute(1, 0, 2), self.image_blocks, self.image_blocks, self.method.image_first, tokens)
        return visual.ln_post(x.permute(1, 0, 2))

    def text(self, tokens: Tokens) -> Tensor:
        clip = self.clip
        x = clip.token_embedding(self.ids) + clip.positional_embedding[: self.ids.shape[1]]
        x = self.run(x.permute(1, 0, 2), self.text_blocks, self.long_text_blocks, self.method.text_first, tokens)
        x = clip.ln_final(x.permute(1, 0, 2))
        end = self.ids.argmax(dim=-1) + (0 if tokens is None else len(tokens[0]))
        return x[torch.arange(len(x)), end] @ clip.text_projection

    def features(self, images: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """f_c, f_r, w."""
        image_tokens, text_tokens = self.layer_tokens()
        visual, method = self.clip.visual, self.method
        x = self.image(images, image_tokens)
        f_r = None
        if image_tokens is not None:
            if isinstance(method, MMRLpp):
                projection = visual.proj + method.proj_down @ method.proj_up
            else:
                projection = method.rep_proj
            f_r = self.normalise(x[:, 1 : 1 + len(image_tokens[0])].mean(dim=1) @ projection)
        return self.normalise(x[:, 0] @ visual.proj), f_r, self.normalise(self.text(text_tokens))

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        s = self.method.settings
        f_c, f_r, w = self.features(images)
        with torch.no_grad():
            frozen = self.normalise(self.image(images, None)[:, 0] @ self.clip.visual.proj)
        loss = F.cross_entropy(100 * f_c @ w.T, labels)
        if f_r is not None:
            loss = s.alpha * loss + (1 - s.alpha) * F.cross_entropy(100 * f_r @ w.T, labels)
        hold: Callable[[Tensor, Tensor], Tensor] = {
            "cosine": lambda a, b: 1 - F.cosine_similarity(a, b).mean(),
            "l1": lambda a, b: (a - b).abs().mean(),
            "mse": lambda a, b: ((a - b) ** 2).mean(),
        }[s.regulariser]
        return loss + s.reg_weight * hold(f_c, frozen) + s.reg_weight * hold(w, self.frozen_text)

    def probabilities(self, images: Tensor, seen: bool) -> Tensor:
        """Softmax scores when all classes are known, or none is."""
        s = self.method.settings
        f_c, f_r, w = self.features(images)
        l_c = 100 * f_c @ w.T
        if f_r is None or (s.seen_scores if seen else s.new_scores) == "class":
            return l_c.softmax(-1)
        l_r = 100 * f_r @ w.T
        if s.fusion == "logits":
            return (s.alpha * l_c + (1 - s.alpha) * l_r).softmax(-1)
        return s.alpha * l_c.softmax(-1) + (1 - s.alpha) * l_r.softmax(-1)
