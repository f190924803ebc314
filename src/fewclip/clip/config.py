"""The sizes of a CLIP."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Config:
    """Sizes of a CLIP with a vision transformer. `fewclip.clip.layouts` reads them off a checkpoint."""

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
