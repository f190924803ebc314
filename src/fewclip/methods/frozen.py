"""Features of frozen CLIP: the start, the target or the other half of most methods."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fewclip.clip.model import CLIP
from fewclip.clip.prompts import Prompts
from fewclip.methods.base import Images, unit

if TYPE_CHECKING:
    from jaxtyping import Float


@torch.no_grad()
def image_features(clip: CLIP, images: Images) -> Float[Tensor, "batch dim"]:
    """Unit image features."""
    return unit(clip.visual.features(clip.visual.stem(images)))


@torch.no_grad()
def raw_image_features(clip: CLIP, batches: Iterable[Images]) -> Float[Tensor, "n dim"]:
    """Image features of several batches, as the projection leaves them, in float32."""
    return torch.cat([clip.visual.features(clip.visual.stem(batch.to(clip.device))).float() for batch in batches])


@torch.no_grad()
def text_features(clip: CLIP, prompts: Prompts) -> Float[Tensor, "classes dim"]:
    """Unit text features."""
    return unit(clip.text_features(clip.text_groups(prompts)))


@torch.no_grad()
def ensemble(clip: CLIP, sentences: Iterable[Prompts], *, each_unit: bool = True) -> Float[Tensor, "classes dim"]:
    """Unit text features averaged over sentences; `each_unit`: each sentence's is normalised before the mean."""
    features = torch.stack([clip.text_features(clip.text_groups(prompts)) for prompts in sentences])
    return unit((unit(features) if each_unit else features).mean(0))
