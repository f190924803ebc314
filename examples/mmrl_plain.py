"""MMRL and MMRL++ in one file, written straight from the equations. Read this first.

    python examples/mmrl_plain.py

It computes what docs/equations.md defines, in the same order (the sections are cited as §), and the way the published code does: two
whole passes over the images and one over all positions of all class prompts at every step, sequence first, with
`nn.MultiheadAttention` and a dense mask. Nothing is cached, shared or cut. fewclip computes the same numbers for less (§7), and this
file is what its tests compare with and what its benchmarks measure against. To make that possible the learnable tensors are
those of a fewclip method, read by name; all arithmetic is here. Run as a program, it trains both methods for three
steps and prints how far the library's loss and gradients are from these.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewclip.clip.layers import Block, Transformer
from fewclip.clip.model import CLIP
from fewclip.methods.classes import ClassTexts
from fewclip.methods.mmrl import MMRL
from fewclip.methods.mmrlpp import MMRLpp

Tokens = list[Tensor] | None
"""For each layer from J on, the tokens (K, width) that enter it; None: that tower gets none."""


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
        length, positions = token_ids.shape[1], clip.positional_embedding

        def layers(transformer: Transformer, causal: int | None) -> list[Layer]:
            mask = None if causal is None else torch.full((causal, causal), -torch.inf).to(positions).triu(1)
            return [Layer(transformer.layer(i), mask) for i in range(1, len(transformer) + 1)]

        # Text attention is causal. From layer J on the sequence is K tokens longer, and so is the mask.
        k = method.settings.rep_tokens if method.settings.text_tokens else 0
        self.image_layers = layers(clip.visual.transformer, None)
        self.text_layers = layers(clip.transformer, length)
        self.longer_text_layers = layers(clip.transformer, length + k)
        with torch.no_grad():
            self.w0 = unit(self.text(None))  # class features of untouched CLIP: what w is held to

    # §2 Representation tokens

    def tokens(self) -> tuple[Tokens, Tokens]:
        """Rv_i and Rt_i for i in J..L: the space tokens R, mapped to each layer of each tower."""
        source, s = self.method.tokens, self.method.settings

        def align(aligner: nn.Module, i: int, space: Tensor) -> Tensor:
            if isinstance(
                self.method, MMRLpp
            ):  # one W for all layers, a low-rank residual A_i B_i and a bias per layer
                return space @ (aligner.weight + aligner.up[i] @ aligner.down[i]).T + aligner.bias[i]  # type: ignore[operator, index]
            return F.linear(space, aligner.weight[i], aligner.bias[i])  # type: ignore[index]

        def aligned(aligner: nn.Module | None) -> Tokens:
            if aligner is None:
                return None
            return [align(aligner, i, source.space) for i in range(len(aligner.bias))]  # type: ignore[arg-type]

        if s.space == "shared":
            return aligned(source.to_image), aligned(source.to_text)
        # The two ablations without a shared space: image tokens mapped from text tokens, or all independent.
        text = None if source.text is None else list(source.text)
        if s.space == "text-to-image":
            assert text is not None
            assert source.to_image is not None
            return [align(source.to_image, i, t) for i, t in enumerate(text)], text
        return (None if source.image is None else list(source.image)), text

    # §3 Towers

    def run(self, x: Tensor, plain: list[Layer], longer: list[Layer], first: int, tokens: Tokens) -> Tensor:
        """All layers over x (N, B, width). From layer J = `first` on, K tokens are kept at positions 1..K."""
        beta = getattr(self.method.settings, "beta", 1.0)  # MMRL replaces its tokens at each layer, MMRL++ mixes by β
        for i in range(1, len(plain) + 1):
            inserted = tokens is not None and i >= first
            if tokens is not None and inserted:
                new = tokens[i - first][:, None].expand(-1, x.shape[1], -1)  # (K, B, width)
                k = len(new)
                if i == first:
                    x = torch.cat([x[:1], new, x[1:]])  # [c; E] becomes [c; R; E]
                else:
                    x = torch.cat([x[:1], beta * new + (1 - beta) * x[1 : 1 + k], x[1 + k :]])
            x = (longer if inserted else plain)[i - 1](x)
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
        x = clip.ln_final(x.permute(1, 0, 2))
        end = self.ids.argmax(dim=-1) + (0 if tokens is None else len(tokens[0]))  # EOT has the largest id
        return x[torch.arange(len(x), device=x.device), end] @ clip.text_projection

    def features(self, images: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """f_c (B, d), f_r (B, d) or None without image tokens, w (C, d); all of unit length."""
        image_tokens, text_tokens = self.tokens()
        visual, method = self.clip.visual, self.method
        x = self.image(images, image_tokens)
        f_r = None
        if image_tokens is not None:
            # P_r: a matrix of its own in MMRL; CLIP's projection with a low-rank change in MMRL++.
            p_r = visual.proj + method.proj_down @ method.proj_up if isinstance(method, MMRLpp) else method.rep_proj
            f_r = unit(x[:, 1 : 1 + len(image_tokens[0])].mean(dim=1) @ p_r)
        return unit(x[:, 0] @ visual.proj), f_r, unit(self.text(text_tokens))

    # §4 Loss

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """α·CE(ℓ_c) + (1-α)·CE(ℓ_r) + λ·R(f_c, f0) + λ·R(w, w0)."""
        s = self.method.settings
        f_c, f_r, w = self.features(images)
        with torch.no_grad():
            f0 = unit(self.image(images, None)[:, 0] @ self.clip.visual.proj)  # untouched CLIP, same crops
        loss = F.cross_entropy(100 * f_c @ w.T, labels)
        if f_r is not None:
            loss = s.alpha * loss + (1 - s.alpha) * F.cross_entropy(100 * f_r @ w.T, labels)
        distance = {
            "cosine": lambda a, b: 1 - F.cosine_similarity(a, b).mean(),
            "l1": lambda a, b: (a - b).abs().mean(),
            "mse": lambda a, b: ((a - b) ** 2).mean(),
        }[s.regulariser]
        return loss + s.reg_weight * distance(f_c, f0) + s.reg_weight * distance(w, self.w0)

    # §5 Prediction

    def probabilities(self, images: Tensor, seen: bool) -> Tensor:
        """(B, C), where all candidates were trained on (`seen`) or none was."""
        s = self.method.settings
        f_c, f_r, w = self.features(images)
        by_class = 100 * f_c @ w.T
        if f_r is None or (s.seen_scores if seen else s.new_scores) == "class":
            return by_class.softmax(-1)
        by_rep = 100 * f_r @ w.T
        if s.fusion == "logits":
            return (s.alpha * by_class + (1 - s.alpha) * by_rep).softmax(-1)
        return s.alpha * by_class.softmax(-1) + (1 - s.alpha) * by_rep.softmax(-1)


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
