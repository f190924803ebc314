"""CLIP's two towers, frozen, and runnable from any layer to any layer.

Parameter names are those of OpenAI's state dict, so loading one needs no table. Three things differ from the usual
way of writing CLIP, all of them exact (docs/architecture.md):

* a tower takes an *edit*, a function called with (layer, tokens) before every layer, so that a few-shot method can
  insert or change tokens without a copy of the towers, and a *beside*, a function called with (layer, place, input)
  whose result is added to what the frozen weights of that place make of the same input (adapters, LoRA);
* what lies below the first edit is a *stem*: computed once, shared by the tuned and the frozen pass;
* the text tower computes what all prompts share at their start once (clip/prompts.py), and both towers compute the
  last layer only at the tokens that are read.

Layers are numbered from 1, as in the papers. Radford et al., "Learning Transferable Visual Models From Natural
Language Supervision", ICML 2021.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewclip.clip.groups import TextGroups, layer_bytes, pieces
from fewclip.clip.kernels import Linear, linear, mlp

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from fewclip.clip.preprocess import Preprocess
    from fewclip.clip.prompts import Prompts
    from fewclip.clip.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Config:
    """Sizes of a CLIP with a vision transformer. `clip/checkpoint.py` reads them off a checkpoint."""

    embed_dim: int
    """Size of the features of both towers."""
    image_size: int
    """Pixels a side."""
    patch_size: int
    """Pixels a side of a patch."""
    vision_width: int
    vision_layers: int
    vision_heads: int
    context_length: int
    """Tokens of the longest prompt."""
    vocab_size: int
    text_width: int
    text_layers: int
    text_heads: int
    quick_gelu: bool = False
    """The activation is x · sigmoid(1.702 x), as in OpenAI's weights, not GELU."""
    vision_mlp: int | None = None
    """Hidden width of the image tower's MLPs; None: 4 · width, as in all but the largest models."""


class TextTokens(NamedTuple):
    """Hidden states of C prompts that begin alike: the shared prefix once, then one suffix per class.

    Leading dimensions (none by default) hold independent copies, such as one per image. `eot` counts within the suffix.
    """

    prefix: Float[Tensor, "*copies prefix width"]
    suffix: Float[Tensor, "*copies classes suffix width"]
    eot: Int[Tensor, " classes"]

    def until(self, length: int) -> TextTokens:
        """The same with a prefix of at most `length` tokens: what it held beyond goes into every suffix."""
        moved = self.prefix[..., length:, :]
        each = moved.unsqueeze(-3).expand(*self.suffix.shape[:-2], *moved.shape[-2:])
        suffix = torch.cat([each, self.suffix], dim=-2)
        return TextTokens(self.prefix[..., :length, :], suffix, self.eot + moved.shape[-2])


Tokens = TypeVar("Tokens", Tensor, TextTokens)
ImageEdit = Callable[[int, Tensor], Tensor]
TextEdit = Callable[[int, TextTokens], TextTokens]
Place = Literal["query", "key", "value", "output", "layer"]
Beside = Callable[[int, Place, Tensor], "Tensor | None"]
"""Called with (layer, place, input (..., width)), row by row: what to add to that place's output, or None. Places are
the four projections of attention, and `layer`: input the layer's first norm, output the layer's own."""
LayerBeside = Callable[[Place, Tensor], "Tensor | None"]


@dataclass(frozen=True)
class Stem(Generic[Tokens]):
    """The tokens that enter `layer`: everything below has been computed and carries no gradient."""

    layer: int
    tokens: Tokens

    def __getitem__(self: Stem[Tensor], rows: Any) -> Stem[Tensor]:
        return Stem(self.layer, self.tokens[rows])


PART_BYTES = 20 << 20
"""On a CPU, the size of the widest hidden states of as many images as are computed at a time."""


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
        self, x: Tensor, read: int | None = None, causal: bool = False, beside: LayerBeside | None = None
    ) -> Tensor:
        """Self-attention over (..., N, width); with `read`, only the first `read` tokens ask."""
        if read is None:
            q, k, v = self._project(x, 0, 3, beside)
        else:
            (q,) = self._project(x[..., :read, :], 0, 1, beside)
            k, v = self._project(x, 1, 2, beside)
        return self._merge(F.scaled_dot_product_attention(q, k, v, is_causal=causal), beside)

    def ask(self, askers: Tensor, x: Tensor) -> Tensor:
        """Attention of other tokens (..., K, width) to (..., N, width)."""
        (q,) = self._project(askers, 0, 1, None)
        k, v = self._project(x, 1, 2, None)
        return self._merge(F.scaled_dot_product_attention(q, k, v), None)

    def branch(
        self,
        prefix: Tensor,
        suffix: Tensor,
        eot: Tensor | None = None,
        askers: Tensor | None = None,
        beside: LayerBeside | None = None,
    ) -> Tensor:
        """Causal attention of every class's suffix (..., C, S, width) to the shared prefix (..., P, width) and itself.

        With `eot` (C,), only that token of each suffix asks, (..., C, 1, width), or in its place `askers` (..., C, K, width).
        """
        kp, vp = self._project(prefix, 1, 2, beside)  # (..., heads, P, h)
        positions = torch.arange(suffix.shape[-2], device=suffix.device)
        if eot is None:
            q, ks, vs = self._project(suffix, 0, 3, beside)  # (..., C, heads, S, h)
            allowed = positions[None, :] <= positions[:, None]  # (S, S)
        else:
            (q,) = self._project(pick(suffix, eot) if askers is None else askers, 0, 1, beside)
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
    """What the frozen weights made of x, and what the method adds beside them."""
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
        x = x[..., :read, :] + self.attn(asking, read, causal, beside)
        return _plus(x + self.mlp(self.ln_2(x)), beside, "layer", asking[..., :read, :])

    def ask(self, askers: Tensor, x: Tensor) -> Tensor:
        """The layer for tokens (..., K, width) that read those of `x` and are read by none."""
        askers = askers + self.attn.ask(self.ln_1(askers), self.ln_1(x))
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
        """The same layer where nothing but EOT is read afterwards: (..., C, width)."""
        prefix, suffix = self.ln_1(tokens.prefix), self.ln_1(tokens.suffix)
        after = pick(tokens.suffix, tokens.eot) + self.attn.branch(prefix, suffix, tokens.eot, beside=beside)
        return _plus(after + self.mlp(self.ln_2(after)), beside, "layer", pick(suffix, tokens.eot)).squeeze(-2)

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

        def below(images: Tensor) -> Tensor:
            x = self.embed(images)
            for number in range(1, layer):
                x = self.transformer.layer(number)(x)
            return x

        return Stem(layer, torch.cat([below(part) for part in self.parts(images)]))

    def parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """A batch in the parts that compute fastest.

        On a CPU these are a few images: the hidden states of more fit neither its cache nor what the allocator recycles
        (glibc returns blocks above 32 MB to the system, which clears them before it hands them out again). An exported graph
        takes them whole: how many there are is not known there.
        """
        if torch.compiler.is_compiling():
            return (x,)
        widest = self.transformer.layer(1).mlp.c_fc.out_features * len(self.positional_embedding) * x.element_size()
        count = -(-len(x) * widest // PART_BYTES) if x.device.type == "cpu" else 1
        return x.tensor_split(max(1, min(count, len(x))))

    def finish(
        self, stem: Stem[Tensor], edit: ImageEdit | None = None, read: int = 1, beside: Beside | None = None
    ) -> Tensor:
        """From a stem to the outputs of the last layer at the first `read` tokens: (batch, read, width)."""
        x, last = stem.tokens, len(self.transformer)
        for number in range(stem.layer, last + 1):
            if edit is not None:
                x = edit(number, x)
            extra = None if beside is None else partial(beside, number)
            x = self.transformer.layer(number)(x, read if number == last else None, beside=extra)
        return x

    def features(
        self, stem: Stem[Tensor], edit: ImageEdit | None = None, beside: Beside | None = None
    ) -> Float[Tensor, "batch dim"]:
        """The class token's feature, not normalised."""
        if edit is None:
            parts = [Stem(stem.layer, part) for part in self.parts(stem.tokens)]
            x = torch.cat([self.finish(part, beside=beside) for part in parts])
        else:
            x = self.finish(stem, edit, beside=beside)
        return self.ln_post(x[:, 0]) @ self.proj

    def read_only(self, stem: Stem[Tensor], askers: Float[Tensor, "#batch k width"]) -> Float[Tensor, "batch k dim"]:
        """Features of tokens that read the image at every layer and are read by none, not normalised."""
        x, last = stem.tokens, len(self.transformer)
        askers = askers.expand(x.shape[0], -1, -1)
        for number in range(stem.layer, last + 1):
            askers = self.transformer.layer(number).ask(askers, x)
            if number < last:
                x = self.transformer.layer(number)(x)
        return self.ln_post(askers) @ self.proj

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

    def text_groups(self, prompts: Prompts, layer: int = 1) -> TextGroups[Stem[TextTokens]]:
        """The same in groups of like length (clip/groups.py): for edits that treat every class alike."""
        groups = pieces(prompts, self.positional_embedding.device)
        return TextGroups([self.text_stem(some, layer) for some, _ in groups], [rows for _, rows in groups])

    def text_features(
        self,
        stem: Stem[TextTokens] | TextGroups[Stem[TextTokens]],
        edit: TextEdit | None = None,
        beside: Beside | None = None,
    ) -> Float[Tensor, "*copies classes dim"]:
        """From a stem to the feature of each prompt's EOT token, not normalised."""
        if not isinstance(stem, Stem):
            return stem.features(lambda some, _: self.text_features(some, edit, beside), self.kept)
        tokens, last = stem.tokens, len(self.transformer)
        for number in range(stem.layer, last + 1):
            if edit is not None:
                tokens = edit(number, tokens)
            extra = None if beside is None else partial(beside, number)
            if number < last:
                tokens = self.transformer.layer(number).branch(tokens, extra)
        return self.ln_final(self.transformer.layer(last).branch_last(tokens, extra)) @ self.text_projection

    def kept(self, stem: Stem[TextTokens]) -> int:
        """Bytes that `text_features` of a stem keeps for the backward pass."""
        return (len(self.transformer) - stem.layer + 1) * layer_bytes(stem.tokens)

    @torch.no_grad()
    def text_stages(self, prompts: Prompts) -> TextGroups[list[TextTokens]]:
        """The tokens that enter each layer: what `text_read_only` reads, a constant of the prompts."""

        def stages(some: Prompts) -> list[TextTokens]:
            found = [self.embed_prompts(some)]
            for number in range(1, len(self.transformer)):
                found.append(self.transformer.layer(number).branch(found[-1]))
            return found

        groups = pieces(prompts, self.positional_embedding.device)
        return TextGroups([stages(some) for some, _ in groups], [rows for _, rows in groups])

    def text_read_only(
        self, stages: TextGroups[list[TextTokens]], askers: Float[Tensor, "k width"]
    ) -> Float[Tensor, "classes k dim"]:
        """Features of tokens that read each prompt up to its EOT at every layer and are read by none, not normalised."""

        def run(stages: list[TextTokens], rows: Tensor) -> Tensor:
            asking = askers.expand(rows.shape[0], -1, -1)
            for number, tokens in enumerate(stages, start=1):
                asking = self.transformer.layer(number).branch_ask(asking, tokens)
            return self.ln_final(asking) @ self.text_projection

        def kept(stages: list[TextTokens]) -> int:
            return sum(layer_bytes(tokens, computed=len(askers)) for tokens in stages)

        return stages.features(run, kept, dim=0)


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
        """Where its weights are."""
        return self.positional_embedding.device

    def encode_image(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        """Image features of normalised pixels, not L2-normalised."""
        return self.visual(images)

    def encode_text(self, tokens: Int[Tensor, "classes length"] | Prompts) -> Float[Tensor, "classes dim"]:
        """Text features, not L2-normalised. The end-of-text token is the largest id of a row."""
        from fewclip.clip.prompts import Prompts

        prompts = tokens if isinstance(tokens, Prompts) else Prompts.from_tokens(tokens)
        return self.text_features(Stem(1, self.embed_prompts(prompts)))
