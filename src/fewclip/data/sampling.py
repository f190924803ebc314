"""Few-shot picks, identical to those of the published code (shared/datasets.md §3)."""

from __future__ import annotations

import random
from collections.abc import Sequence

VAL_SHOTS = 4
"""The most validation images of a class that the published code picks."""


def few_shot(labels: Sequence[int], shots: int, seed: int, rng: random.Random | None = None) -> list[int]:
    """Indices of `shots` images of each class, or all of a class that has fewer.

    Classes come in the order of their first appearance, and each draws from Python's generator seeded with `seed`, or
    from `rng`, which goes on from where it stands.
    """
    rng = rng or random.Random(seed)
    by_label: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        by_label.setdefault(label, []).append(index)
    picks: list[int] = []
    for indices in by_label.values():
        picks += rng.sample(indices, shots) if len(indices) >= shots else indices
    return picks


def few_shot_and_val(train: Sequence[int], val: Sequence[int], shots: int, seed: int) -> tuple[list[int], list[int]]:
    """Indices of the training picks, and of the validation picks that the same generator makes after them."""
    rng = random.Random(seed)
    return few_shot(train, shots, seed, rng), few_shot(val, min(shots, VAL_SHOTS), seed, rng)
