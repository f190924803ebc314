"""The adapter as the server's one thread uses it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewclip.adapters.adapter import Adapter, Candidates
from fewclip.data.names import key

KEPT = 32
"""Sets of candidates whose encoding is kept."""


@dataclass(frozen=True)
class Answer:
    """Probabilities of one image, and the classes that they are of."""

    classes: tuple[str, ...]
    probabilities: np.ndarray


class Model:
    """An adapter, the encodings of the candidates that were asked for lately, and what sort a class is."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.takes_new = adapter.takes_new
        self._encoded: OrderedDict[tuple[str, ...], Candidates] = OrderedDict()

    @property
    def preprocess(self) -> Any:
        return self.adapter.clip.preprocess

    @property
    def trained(self) -> list[str]:
        return list(self.adapter.trained_classes)

    @property
    def added(self) -> list[str]:
        return list(self.adapter.added_classes)

    def kinds(self, names: Sequence[str]) -> dict[str, str]:
        """Of each name whether it was trained, added, or is new."""
        trained, added = {key(n) for n in self.trained}, {key(n) for n in self.added}
        return {n: "trained" if key(n) in trained else "added" if key(n) in added else "new" for n in names}

    def add(self, names: Sequence[str]) -> None:
        """Let the model know further classes."""
        self.adapter.add_classes(names)

    def run(self, pixels: Sequence[Tensor], classes: tuple[str, ...] | None) -> list[Answer]:
        """Score images among `classes`, or among all that are known."""
        names = tuple(self.adapter.classes) if classes is None else classes
        scores = self.adapter.pixel_scores(torch.stack(list(pixels)), self._candidates(names))
        return [Answer(names, row) for row in torch.softmax(scores, dim=-1).numpy()]

    def _candidates(self, names: tuple[str, ...]) -> Candidates:
        if names in self._encoded:
            self._encoded.move_to_end(names)
        else:
            self._encoded[names] = self.adapter.candidates(names)
            while len(self._encoded) > KEPT:
                self._encoded.popitem(last=False)
        return self._encoded[names]
