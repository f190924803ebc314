"""MMRL and MMRL++ in one file, written straight from the equations. Read this first.

    python examples/mmrl_plain.py

It computes what docs/equations.md defines, in the same order (the sections are cited as §) and the way the published code does: at
every step two whole passes over the images and one over all positions of all class prompts, sequence first, with
`nn.MultiheadAttention` and a dense mask. Nothing is cached, shared or cut. fewclip computes the same numbers for less (§7); its tests
compare with this file, and its benchmarks measure against it. To make that possible the learnable tensors are those of a fewclip
method, read by name; all arithmetic is here. Run as a program, it trains both methods for three steps and prints how far the
library's loss and gradients are from these. The ablations, as changes to this file: tests/support/ablated_mmrl.py.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewclip.clip.layers import Block, Transformer
from fewclip.clip.model import CLIP
from fewclip.methods.classes import ClassTexts
from fewclip.methods.mmrl import MMRL
from fewclip.methods.mmrlpp import MMRLpp

Tokens = list[Tensor] | None
"""For each layer from J on, the tokens (K, width) that enter it; None: the tower of untouched CLIP."""


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


class Layer(nn.Module):
    """One frozen transformer layer of CLIP, pre-norm, over (N tokens, B sequences, width)."""

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


class PlainMMRL:
    """Both towers with representation tokens and without, the loss, and the probabilities.

    `method` holds the settings and the learnable tensors; `token_ids` (C, 77) are the prompts of the classes.
    """

    def __init__(self, clip: CLIP, method: MMRL, token_ids: Tensor) -> None:
        self.clip, self.method, self.ids = clip, method, token_ids

        def layers(transformer: Transformer, mask: Tensor | None) -> list[Layer]:
            return [Layer(transformer.layer(i), mask) for i in range(1, len(transformer) + 1)]

        # Text attention is causal. From layer J on the sequence is K tokens longer, and so is the mask.
        length, k = token_ids.shape[1], method.settings.rep_tokens
        causal = torch.full((length + k, length + k), -torch.inf).to(clip.positional_embedding).triu(1)
        self.image_layers = layers(clip.visual.transformer, None)
        self.text_layers = layers(clip.transformer, causal[:length, :length])
        self.longer_text_layers = layers(clip.transformer, causal)
        with torch.no_grad():
            self.w0 = unit(self.text(None))  # class features of untouched CLIP: what w is held to

    # §2 Representation tokens

    def align(self, aligner: Any, i: int, space: Tensor) -> Tensor:
        """The tokens that enter the i-th layer from J on: the space tokens R, mapped to that layer."""
        if isinstance(self.method, MMRLpp):  # one W for all layers, a low-rank residual A_i B_i and a bias per layer
            return space @ (aligner.weight + aligner.up[i] @ aligner.down[i]).T + aligner.bias[i]
        return F.linear(space, aligner.weight[i], aligner.bias[i])

    def tokens(self) -> tuple[Tokens, Tokens]:
        """Rv_i and Rt_i for i in J..L."""
        source: Any = self.method.tokens
        image = [self.align(source.to_image, i, source.space) for i in range(len(source.to_image.bias))]
        return image, [self.align(source.to_text, i, source.space) for i in range(len(source.to_text.bias))]

    # §3 Towers

    def run(self, x: Tensor, plain: list[Layer], longer: list[Layer], first: int, tokens: Tokens) -> Tensor:
        """All layers over x (N, B, width). From layer J = `first` on, K tokens are kept at positions 1..K."""
        beta = getattr(self.method.settings, "beta", 1.0)  # MMRL replaces its tokens at each layer, MMRL++ mixes by β
        for i in range(1, len(plain) + 1):
            if tokens is None or i < first:
                x = plain[i - 1](x)
                continue
            new = tokens[i - first][:, None].expand(-1, x.shape[1], -1)  # (K, B, width)
            k = len(new)
            if i == first:
                x = torch.cat([x[:1], new, x[1:]])  # [c; E] becomes [c; R; E]
            else:
                x = torch.cat([x[:1], beta * new + (1 - beta) * x[1 : 1 + k], x[1 + k :]])
            x = longer[i - 1](x)
        return x

    def image(self, images: Tensor, tokens: Tokens) -> Tensor:
        """Every token after the last layer and ln_post, (B, N, d_v)."""
        visual = self.clip.visual
        patches = visual.conv1(images).flatten(2).permute(0, 2, 1)
        cls = visual.class_embedding.expand(len(images), 1, -1)
        x = visual.ln_pre(torch.cat([cls, patches], dim=1) + visual.positional_embedding)
        x = self.run(x.permute(1, 0, 2), self.image_layers, self.image_layers, self.method.image_first, tokens)
        return visual.ln_post(x.permute(1, 0, 2))

    def text(self, tokens: Tokens) -> Tensor:
        """The projected EOT token of each class, (C, d)."""
        clip = self.clip
        x = clip.token_embedding(self.ids) + clip.positional_embedding[: self.ids.shape[1]]
        x = self.run(x.permute(1, 0, 2), self.text_layers, self.longer_text_layers, self.method.text_first, tokens)
        end = self.ids.argmax(dim=-1) + (0 if tokens is None else len(tokens[0]))  # EOT has the largest id
        return clip.ln_final(x.permute(1, 0, 2))[torch.arange(len(end), device=end.device), end] @ clip.text_projection

    def features(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """f_c (B, d), f_r (B, d), w (C, d); all of unit length."""
        (image_tokens, text_tokens), visual, method = self.tokens(), self.clip.visual, self.method
        x = self.image(images, image_tokens)
        # P_r: a matrix of its own in MMRL; CLIP's projection with a low-rank change in MMRL++.
        p_r = visual.proj + method.proj_down @ method.proj_up if isinstance(method, MMRLpp) else method.rep_proj
        f_r = x[:, 1 : 1 + method.settings.rep_tokens].mean(dim=1) @ p_r
        return unit(x[:, 0] @ visual.proj), unit(f_r), unit(self.text(text_tokens))

    # §4 Loss

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        return 1 - F.cosine_similarity(a, b).mean()

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """α·CE(ℓ_c) + (1-α)·CE(ℓ_r) + λ·(1 - cos(f_c, f0)) + λ·(1 - cos(w, w0))."""
        s = self.method.settings
        f_c, f_r, w = self.features(images)
        with torch.no_grad():
            f0 = unit(self.image(images, None)[:, 0] @ self.clip.visual.proj)  # untouched CLIP, same crops
        loss = s.alpha * F.cross_entropy(100 * f_c @ w.T, labels)
        loss = loss + (1 - s.alpha) * F.cross_entropy(100 * f_r @ w.T, labels)
        return loss + s.reg_weight * self.distance(f_c, f0) + s.reg_weight * self.distance(w, self.w0)

    # §5 Prediction

    def probabilities(self, images: Tensor, seen: bool) -> Tensor:
        """(B, C), where all candidates were trained on (`seen`) or none was."""
        f_c, f_r, w = self.features(images)
        f = self.method.settings.alpha * f_c + (1 - self.method.settings.alpha) * f_r if seen else f_c
        return (100 * f @ w.T).softmax(-1)


def main() -> None:
    """Train both methods on random pixels with the embedded CLIP, in float64, and let the library compute each step too."""
    torch.manual_seed(0)
    clip = CLIP.from_pretrained("icon-clip").double()
    assert clip.tokenizer is not None
    names, template = ["cat", "dog", "hot air balloon"], "a drawing of a {}."
    texts = ClassTexts(names, template, clip.tokenizer, clip.config.context_length)
    ids = clip.tokenizer([template.format(name) for name in names], clip.config.context_length)
    images, labels = torch.randn(4, 3, 48, 48, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    for kind in (MMRL, MMRLpp):
        method = kind(clip).double()
        plain, parameters = PlainMMRL(clip, method, ids), list(method.parameters())
        method.prepare(texts)
        optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=5e-4)
        print(f"{kind.title}: {method.parameter_count():,} parameters")
        for step in range(1, 4):
            fewclips, loss = method.loss(images, labels)["loss"], plain.loss(images, labels)
            theirs, here = (torch.autograd.grad(x, parameters) for x in (fewclips, loss))
            apart = sum((a - b).norm() for a, b in zip(theirs, here, strict=True)) / sum(b.norm() for b in here)
            print(
                f"  step {step}: loss {loss:.9f}, fewclip's {fewclips:.9f}; gradients differ by {apart:.0e}, relative"
            )
            for p, gradient in zip(parameters, here, strict=True):
                p.grad = gradient
            optimizer.step()


if __name__ == "__main__":
    main()
