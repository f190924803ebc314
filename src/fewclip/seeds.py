"""Random numbers as a function of what they are for, so that order, workers, processes and resuming can't change them."""

from __future__ import annotations

import hashlib

import torch


def derive(*parts: int | str) -> int:
    """A seed in 0..2^63-1 from what it is for, such as (seed, "augment", epoch, image)."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded with `derive`."""
    return torch.Generator().manual_seed(derive(*parts))
