"""CLIP's two towers, frozen, and runnable from any layer to any layer.

Parameter names are those of OpenAI's state dict, so loading one needs no table. Three things differ from the usual
way of writing CLIP, all of them exact (docs/architecture.md):

* a tower takes an *edit*, a function called with (layer, tokens) before every layer, so that a few-shot method can
  insert or change tokens without a copy of the towers;
* what lies below the first edit is a *stem*: computed once, shared by the tuned and the frozen pass;
* the text tower computes what all prompts share at their start once (clip/prompts.py), and both towers compute the
  last layer only at the tokens that are read.

Layers are numbered from 1, as in the papers. Radford et al., "Learning Transferable Visual Models From Natural
Language Supervision", ICML 2021.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

if TYPE_CHECKING:
    from fewclip.clip.preprocess import Preprocess
    from fewclip.clip.prompts import Prompts
    from fewclip.clip.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Config:
    """Sizes of a CLIP with a vision transformer. `clip/checkpoint.py` reads them off a checkpoint."""

    embed_dim: int
    image_size: int
    patch_size: int
    vision_width: int
    vision_layers: int
    vision_heads: int
    context_length: int
    vocab_size: int
    text_width: int
    text_layers: int
    text_heads: int
    quick_gelu: bool = False
    vision_mlp: int | None = None  # hidden width of the image tower's MLPs; 4 · width but in the largest models


class TextTokens(NamedTuple):
    """Hidden states of C prompts that begin alike: the shared prefix once, then one suffix per class.

    Leading dimensions (none by default) hold independent copies, such as one per image. `eot` counts within the suffix.
    """

    prefix: Float[Tensor, "*copies prefix width"]
    suffix: Float[Tensor, "*copies classes suffix width"]
    eot: Int[Tensor, " classes"]


Tokens = TypeVar("Tokens", Tensor, TextTokens)
ImageEdit = Callable[[int, Tensor], Tensor]
TextEdit = Callable[[int, TextTokens], TextTokens]


@dataclass(frozen=True)
class Stem(Generic[Tokens]):
    """The tokens that enter `layer`: everything below has been computed and carries no gradient."""

    layer: int
    tokens: Tokens

    def __getitem__(self: Stem[Tensor], rows: Any) -> Stem[Tensor]:
        return Stem(self.layer, self.tokens[rows])


class Attention(nn.Module):
    """Multi-head attention with one fused projection, parameter names of `nn.MultiheadAttention`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def _project(self, x: Tensor, start: int, count: int) -> tuple[Tensor, ...]:
        """The `count` projections from `start` on (0 query, 1 key, 2 value), each (..., heads, N, head width)."""
        width = x.shape[-1]
        rows = slice(start * width, (start + count) * width)
        out = F.linear(x, self.in_proj_weight[rows], self.in_proj_bias[rows])
        return out.unflatten(-1, (count, self.heads, -1)).movedim(-3, 0).transpose(-3, -2).unbind(0)

    def _merge(self, heads: Tensor) -> Tensor:
        return self.out_proj(heads.transpose(-3, -2).flatten(-2))

    def forward(self, x: Tensor, read: int | None = None, causal: bool = False) -> Tensor:
        """Self-attention over (..., N, width); with `read`, only the first `read` tokens ask."""
        if read is None:
            q, k, v = self._project(x, 0, 3)
        else:
            (q,) = self._project(x[..., :read, :], 0, 1)
            k, v = self._project(x, 1, 2)
        return self._merge(F.scaled_dot_product_attention(q, k, v, is_causal=causal))

    def branch(self, prefix: Tensor, suffix: Tensor, eot: Tensor | None = None) -> Tensor:
        """Causal attention of every class's suffix (..., C, S, width) to the shared prefix (..., P, width) and itself.

        With `eot` (C,), only that token of each suffix asks: (..., C, 1, width).
        """
        kp, vp = self._project(prefix, 1, 2)  # (..., heads, P, h)
        positions = torch.arange(suffix.shape[-2], device=suffix.device)
        if eot is None:
            q, ks, vs = self._project(suffix, 0, 3)  # (..., C, heads, S, h)
            allowed = positions[None, :] <= positions[:, None]  # (S, S)
        else:
            (q,) = self._project(pick(suffix, eot), 0, 1)
            ks, vs = self._project(suffix, 1, 2)
            allowed = (positions <= eot[:, None])[:, None, None, :]  # (C, 1, 1, S)
        seen = allowed.new_ones((*allowed.shape[:-1], prefix.shape[-2]))
        shape = (*ks.shape[:-2], *kp.shape[-2:])
        k = torch.cat([kp.unsqueeze(-4).expand(shape), ks], dim=-2)
        v = torch.cat([vp.unsqueeze(-4).expand(shape), vs], dim=-2)
        mask = torch.cat([seen, allowed], dim=-1)
        return self._merge(F.scaled_dot_product_attention(q, k, v, attn_mask=mask))


def pick(suffix: Float[Tensor, "*copies C S width"], eot: Int[Tensor, " C"]) -> Float[Tensor, "*copies C 1 width"]:
    """Of each class's suffix the token at `eot`."""
    return suffix.gather(-2, eot[:, None, None].expand(*suffix.shape[:-2], 1, suffix.shape[-1]))


class QuickGELU(nn.Module):
    """x · sigmoid(1.702 x), the activation of OpenAI's weights."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class MLP(nn.Module):
    def __init__(self, width: int, quick_gelu: bool, hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden or 4 * width
        self.c_fc = nn.Linear(width, hidden)
        self.gelu = QuickGELU() if quick_gelu else nn.GELU()
        self.c_proj = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.gelu(self.c_fc(x)))


class Block(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, width: int, heads: int, quick_gelu: bool, hidden: int | None = None) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = MLP(width, quick_gelu, hidden)
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, read: int | None = None, causal: bool = False) -> Tensor:
        x = x[..., :read, :] + self.attn(self.ln_1(x), read, causal)
        return x + self.mlp(self.ln_2(x))

    def branch(self, tokens: TextTokens) -> TextTokens:
        """One causal layer over prompts: the prefix once, the suffixes on top of it."""
        prefix, suffix = self.ln_1(tokens.prefix), self.ln_1(tokens.suffix)
        after = tokens.suffix + self.attn.branch(prefix, suffix)
        return TextTokens(self(tokens.prefix, causal=True), after + self.mlp(self.ln_2(after)), tokens.eot)

    def branch_last(self, tokens: TextTokens) -> Tensor:
        """The same layer where nothing but EOT is read afterwards: (..., C, width)."""
        attended = self.attn.branch(self.ln_1(tokens.prefix), self.ln_1(tokens.suffix), tokens.eot)
        after = pick(tokens.suffix, tokens.eot) + attended
        return (after + self.mlp(self.ln_2(after))).squeeze(-2)


class Transformer(nn.Module):
    def __init__(self, width: int, layers: int, heads: int, quick_gelu: bool, hidden: int | None = None) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads, quick_gelu, hidden) for _ in range(layers))

    def __len__(self) -> int:
        return len(self.resblocks)

    def layer(self, number: int) -> Block:
        """The layer of that number, counted from 1."""
        block = self.resblocks[number - 1]
        assert isinstance(block, Block)
        return block


class ImageTower(nn.Module):
    """CLIP's vision transformer."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, patch = config.vision_width, config.patch_size
        self.conv1 = nn.Conv2d(3, width, kernel_size=patch, stride=patch, bias=False)
        scale = width**-0.5
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        grid = config.image_size // patch
        self.positional_embedding = nn.Parameter(scale * torch.randn(grid**2 + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(
            width, config.vision_layers, config.vision_heads, config.quick_gelu, config.vision_mlp
        )
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(scale * torch.randn(width, config.embed_dim))

    def embed(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch tokens width"]:
        """Class token and patches as they enter layer 1."""
        patches = self.conv1(images).flatten(2).transpose(1, 2)
        start = self.class_embedding.expand(patches.shape[0], 1, -1)  # len() would fix an exported batch
        return self.ln_pre(torch.cat([start, patches], dim=1) + self.positional_embedding)

    @torch.no_grad()
    def stem(self, images: Float[Tensor, "batch 3 height width"], layer: int = 1) -> Stem[Tensor]:
        """The tokens that enter `layer`, from normalised pixels, without gradient."""
        x = self.embed(images)
        for number in range(1, layer):
            x = self.transformer.layer(number)(x)
        return Stem(layer, x)

    def finish(self, stem: Stem[Tensor], edit: ImageEdit | None = None, read: int = 1) -> Tensor:
        """From a stem to the outputs of the last layer at the first `read` tokens: (batch, read, width)."""
        x, last = stem.tokens, len(self.transformer)
        for number in range(stem.layer, last + 1):
            if edit is not None:
                x = edit(number, x)
            x = self.transformer.layer(number)(x, read if number == last else None)
        return x

    def features(self, stem: Stem[Tensor], edit: ImageEdit | None = None) -> Float[Tensor, "batch dim"]:
        """The class token's feature, not normalised."""
        return self.ln_post(self.finish(stem, edit)[:, 0]) @ self.proj

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        """Image features, not normalised, with gradient through every layer."""
        return self.features(Stem(1, self.embed(images)))


class TextTower(nn.Module):
    """CLIP's causal text transformer over prompts with a shared prefix."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.text_width
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(config.context_length, width))
        self.transformer = Transformer(width, config.text_layers, config.text_heads, config.quick_gelu)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(width**-0.5 * torch.randn(width, config.embed_dim))

    def embed_prompts(self, prompts: Prompts) -> TextTokens:
        """Token and position embeddings of prompts, split into prefix and suffixes."""
        ids = prompts.tokens.to(self.positional_embedding.device)
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        return TextTokens(x[0, : prompts.prefix], x[:, prompts.prefix :], prompts.eot.to(ids.device) - prompts.prefix)

    @torch.no_grad()
    def text_stem(self, prompts: Prompts, layer: int = 1) -> Stem[TextTokens]:
        """The tokens that enter `layer`: a constant of the prompts, to be computed once per run."""
        tokens = self.embed_prompts(prompts)
        for number in range(1, layer):
            tokens = self.transformer.layer(number).branch(tokens)
        return Stem(layer, tokens)

    def text_features(
        self, stem: Stem[TextTokens], edit: TextEdit | None = None
    ) -> Float[Tensor, "*copies classes dim"]:
        """From a stem to the feature of each prompt's EOT token, not normalised."""
        tokens, last = stem.tokens, len(self.transformer)
        for number in range(stem.layer, last + 1):
            if edit is not None:
                tokens = edit(number, tokens)
            if number < last:
                tokens = self.transformer.layer(number).branch(tokens)
        return self.ln_final(self.transformer.layer(last).branch_last(tokens)) @ self.text_projection


class CLIP(TextTower):
    """A text tower that can see. OpenAI's state dict keeps the text tower at its root and the image tower in `visual`.

    `tokenizer` and `preprocess` come with a checkpoint (`from_pretrained`) and are None on a CLIP made from a bare
    `Config`; `name` is what was loaded.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config
        self.visual = ImageTower(config)
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
        self.name = ""
        self.tokenizer: Tokenizer | None = None
        self.preprocess: Preprocess | None = None
        self._initialise()

    def _initialise(self) -> None:
        """The initial values of the CLIP paper's code, for training from nothing."""
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        for transformer in (self.transformer, self.visual.transformer):
            for block in transformer.resblocks:
                assert isinstance(block, Block)
                width = block.attn.out_proj.in_features
                deep = width**-0.5 * (2 * len(transformer)) ** -0.5
                nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
                nn.init.normal_(block.attn.out_proj.weight, std=deep)
                nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
                nn.init.normal_(block.mlp.c_proj.weight, std=deep)
                nn.init.zeros_(block.attn.out_proj.bias)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str, *, device: str | torch.device = "cpu", quick_gelu: bool | None = None
    ) -> CLIP:
        """A frozen CLIP by embedded name, hub name, or local file or folder. See `fewclip.clip.checkpoint.load`.

        `quick_gelu` states the activation where a file doesn't (None: as the checkpoint says).

        Raises:
            fewclip.errors.BackboneError: nothing is found there, or it is no CLIP with a vision transformer.
        """
        from fewclip.clip.checkpoint import load

        return load(name_or_path, quick_gelu=quick_gelu).to(device)

    @property
    def device(self) -> torch.device:
        return self.positional_embedding.device

    def encode_image(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        """Image features of normalised pixels, not L2-normalised."""
        return self.visual(images)

    def encode_text(self, tokens: Int[Tensor, "classes length"] | Prompts) -> Float[Tensor, "classes dim"]:
        """Text features, not L2-normalised. The end-of-text token is the largest id of a row."""
        from fewclip.clip.prompts import Prompts

        prompts = tokens if isinstance(tokens, Prompts) else Prompts.from_tokens(tokens)
        return self.text_features(Stem(1, self.embed_prompts(prompts)))
