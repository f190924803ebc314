"""Tiny random CLIPs and prompts for tests, and the sizes of the ViT-B/16 that published figures are about."""

from __future__ import annotations

import torch
from torch import Tensor

from fewclip.clip.config import Config
from fewclip.clip.model import CLIP

BOT, EOT = 98, 99

VIT_B16 = Config(
    embed_dim=512,
    image_size=224,
    patch_size=16,
    vision_width=768,
    vision_layers=12,
    vision_heads=12,
    context_length=77,
    vocab_size=49408,
    text_width=512,
    text_layers=12,
    text_heads=8,
    quick_gelu=True,
)


def small_config(**changes: int | bool) -> Config:
    sizes: dict[str, int | bool] = {
        "embed_dim": 16,
        "image_size": 16,
        "patch_size": 8,
        "vision_width": 24,
        "vision_layers": 4,
        "vision_heads": 2,
        "context_length": 20,
        "vocab_size": 100,
        "text_width": 16,
        "text_layers": 4,
        "text_heads": 2,
        "quick_gelu": True,
    }
    return Config(**(sizes | changes))  # type: ignore[arg-type]


def small_clip(seed: int = 0, **changes: int | bool) -> CLIP:
    """A CLIP whose every tensor is random, biases and norms too, so that a forgotten one shows."""
    generator = torch.Generator().manual_seed(seed)
    clip = CLIP(small_config(**changes))
    with torch.no_grad():
        for name, p in clip.named_parameters():
            if name != "logit_scale":
                scale = 0.3 if p.ndim > 1 else 0.1
                offset = 1.0 if "ln_" in name and name.endswith("weight") else 0.0
                p.copy_(offset + scale * torch.randn(p.shape, generator=generator))
    return clip.requires_grad_(False).eval()


def random_tokens(classes: int, shared: int, seed: int, context: int = 20) -> Tensor:
    """Rows of BOT, `shared` common ids, one to four own ids, a common id, EOT, zeros."""
    generator = torch.Generator().manual_seed(seed)

    def ids(n: int) -> list[int]:
        return torch.randint(1, 97, (n,), generator=generator).tolist()

    start, rows = ids(shared), []
    for _ in range(classes):
        own = ids(int(torch.randint(1, 5, (), generator=generator)))
        row = [BOT, *start, *own, 5, EOT]
        rows.append(row + [0] * (context - len(row)))
    return torch.tensor(rows)
