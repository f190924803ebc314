"""The classifier as the server's one thread uses it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewclip.classifier import FewShotClassifier
from fewclip.data.names import key
from fewclip.methods import find

KEPT = 32
"""Sets of candidates whose encoding is kept."""


@dataclass(frozen=True)
class Answer:
    """Probabilities of one image, and the classes that they are of."""

    classes: tuple[str, ...]
    probabilities: np.ndarray


class Model:
    """A classifier, the encodings of the candidates that were asked for lately, and what sort a class is."""

    def __init__(self, classifier: FewShotClassifier) -> None:
        self.classifier = classifier
        self.takes_new = bool(find(classifier.method).new_classes)
        self._encoded: OrderedDict[tuple[str, ...], tuple[Any, Tensor]] = OrderedDict()

    @property
    def preprocess(self) -> Any:
        return self.classifier.clip_.preprocess

    @property
    def trained(self) -> list[str]:
        return list(self.classifier.trained_classes_)

    @property
    def added(self) -> list[str]:
        return list(self.classifier.added_classes_)

    def kinds(self, names: Sequence[str]) -> dict[str, str]:
        """Of each name whether it was trained, added, or is new."""
        trained, added = {key(n) for n in self.trained}, {key(n) for n in self.added}
        return {n: "trained" if key(n) in trained else "added" if key(n) in added else "new" for n in names}

    def add(self, names: Sequence[str]) -> None:
        """Let the model know further classes."""
        self.classifier.add_classes(names)

    def run(self, pixels: Sequence[Tensor], classes: tuple[str, ...] | None) -> list[Answer]:
        """Score images among `classes`, or among all that are known."""
        names = tuple(self.classifier.classes_) if classes is None else classes
        scores = self.classifier.pixel_scores(torch.stack(list(pixels)), self._candidates(names))
        return [Answer(names, row) for row in torch.softmax(scores, dim=-1).numpy()]

    def _candidates(self, names: tuple[str, ...]) -> tuple[Any, Tensor]:
        if names in self._encoded:
            self._encoded.move_to_end(names)
        else:
            self._encoded[names] = self.classifier.candidates(names)
            while len(self._encoded) > KEPT:
                self._encoded.popitem(last=False)
        return self._encoded[names]
