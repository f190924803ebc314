"""CLIP's vision transformer, from any layer to any layer."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fewclip.clip.config import Config
from fewclip.clip.layers import Transformer
from fewclip.clip.tokens import Beside, ImageEdit, Stem

if TYPE_CHECKING:
    from jaxtyping import Float


PART_BYTES = 20 << 20
"""On a CPU, the size of the widest hidden states of as many images as are computed at a time."""


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
        takes them whole: it doesn't know how many there are.
        """
        if torch.compiler.is_compiling():
            return (x,)
        widest = self.transformer.layer(1).mlp.c_fc.out_features * len(self.positional_embedding) * x.element_size()
        count = -(-len(x) * widest // PART_BYTES) if x.device.type == "cpu" else 1
        return x.tensor_split(max(1, min(count, len(x))))

    def finish(
        self, stem: Stem[Tensor], edit: ImageEdit | None = None, read: int = 1, beside: Beside | None = None
    ) -> Float[Tensor, "batch read width"]:
        """From a stem to the outputs of the last layer at the first `read` tokens."""
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
