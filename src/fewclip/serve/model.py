"""The adapter as the server's one thread uses it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewclip.adapters.adapter import Adapter
from fewclip.data.names import key

KEPT = 32
"""Sets of candidates whose encoding is kept."""


class Answer(NamedTuple):
    """Probabilities of one image, and the classes they belong to."""

    classes: tuple[str, ...]
    probabilities: np.ndarray


class Model:
    """An adapter with the encodings of the candidates that were asked for most recently."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self._encode = lru_cache(maxsize=KEPT)(adapter.candidates)

    def kinds(self, names: Sequence[str]) -> dict[str, str]:
        """For each name: trained, added, or new."""
        trained = {key(n) for n in self.adapter.trained_classes}
        added = {key(n) for n in self.adapter.added_classes}
        return {n: "trained" if key(n) in trained else "added" if key(n) in added else "new" for n in names}

    def run(self, pixels: Sequence[Tensor], classes: tuple[str, ...] | None) -> list[Answer]:
        """Score images among `classes`, by default among all that are known."""
        names = tuple(self.adapter.classes) if classes is None else classes
        scores = self.adapter.pixel_scores(torch.stack(list(pixels)), self._encode(names))
        return [Answer(names, row) for row in torch.softmax(scores, dim=-1).numpy()]
