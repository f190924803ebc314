"""Accuracy of an adapter on a part of a data set."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fewclip.adapters.adapter import Adapter
from fewclip.data.dataset import Dataset
from fewclip.data.names import key
from fewclip.errors import DataError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

SPLITS = ("base", "novel", "all")
CONFUSIONS, EXAMPLES = 20, 12
"""Most confusions in a result; most example images that are the same for every method, and most that are mistakes."""


@dataclass(frozen=True)
class Result:
    """What was measured. Accuracies are in per cent."""

    split: str
    """base, novel or all."""
    images: int
    """Images tested."""
    classes: int
    """Candidate classes."""
    accuracy: float
    """Share of images classified correctly."""
    mean_class_accuracy: float
    """Mean over classes of the accuracy of each; classes without images do not count."""
    per_class: dict[str, float]
    """Class name -> accuracy."""
    calibration_error: float
    """Expected calibration error in points: `calibration_error`."""
    confusions: list[tuple[str, str, int]]
    """(true class, predicted class, images): the most frequent mistakes first."""
    examples: list[dict[str, Any]]
    """Some predictions, then some mistakes: key (or index) of the image, truth, guess, probability."""
    seconds: float
    """Time from files to predictions."""

    def as_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON."""
        return asdict(self)


def choose(dataset: Dataset, trained: Sequence[str], split: str) -> Dataset:
    """The images and candidate classes of a split: `base` are the trained classes, `novel` the others, `all` both.

    Raises:
        DataError: no class of the data is in that split.
    """
    known = {key(name) for name in trained}
    wanted = {
        "base": [c for c in dataset.classes if key(c) in known],
        "novel": [c for c in dataset.classes if key(c) not in known],
        "all": list(dataset.classes),
    }[split]
    if not wanted:
        what = "one that the adapter was trained on" if split == "base" else "new to the adapter"
        raise DataError(
            f"No class of {dataset.name} is {what}, so there is nothing to evaluate for the split {split!r}: use the "
            f"split {'novel' if split == 'base' else 'base'!r}, or other data."
        )
    return dataset.only(wanted)


def without(dataset: Dataset, keys: Sequence[str]) -> Dataset:
    """The images whose keys are not in `keys`, such as those that were trained on."""
    left_out = set(keys)
    if not dataset.keys or not left_out:
        return dataset
    return dataset.take([i for i, name in enumerate(dataset.keys) if name not in left_out])


def evaluate(
    adapter: Adapter,
    dataset: Dataset,
    split: str = "all",
    *,
    template: str | None = None,
    unseen: bool = False,
) -> Result:
    """Accuracy and calibration with the classes of `dataset` as candidates, some of which may have no images.

    `template` and `unseen` are those of `Adapter.scores`.

    Raises:
        DataError: there are no images.
    """
    if not len(dataset):
        raise DataError(f"No image of {dataset.name} is left to evaluate: all were trained on. Give other images.")
    started = time.monotonic()
    scores = adapter.scores(
        dataset.images, dataset.classes, template=template, unseen=unseen, repeats=dataset.published
    )
    seconds = time.monotonic() - started
    confidence, guesses = scores.double().softmax(dim=-1).max(dim=-1)
    labels = torch.tensor(dataset.labels)
    right = guesses == labels
    per_class = {}
    for label, name in enumerate(dataset.classes):
        hits = right[labels == label].double()
        if len(hits):
            per_class[name if name not in per_class else f"{name} ({label})"] = round(100 * float(hits.mean()), 2)
    return Result(
        split,
        len(dataset),
        len(dataset.classes),
        round(100 * float(right.double().mean()), 2),
        round(sum(per_class.values()) / len(per_class), 2),
        per_class,
        round(100 * calibration_error(confidence, right), 2),
        _confusions(dataset, guesses.tolist()),
        _examples(dataset, guesses.tolist(), confidence.tolist()),
        round(seconds, 3),
    )


def calibration_error(confidence: Float[Tensor, " images"], right: Bool[Tensor, " images"], bins: int = 15) -> float:
    """Expected calibration error, between 0 and 1: the distance between mean confidence and accuracy in equal bins of
    confidence, weighted by their images (Guo et al., ICML 2017)."""
    place = (confidence * bins).long().clamp(max=bins - 1)
    gap = torch.zeros(bins, dtype=torch.double).index_add_(0, place, confidence.double() - right.double())
    return float(gap.abs().sum() / len(confidence))


def _confusions(dataset: Dataset, guesses: Sequence[int]) -> list[tuple[str, str, int]]:
    wrong = Counter((label, guess) for label, guess in zip(dataset.labels, guesses, strict=True) if label != guess)
    ranked = sorted(wrong.items(), key=lambda item: (-item[1], item[0]))
    return [(dataset.classes[label], dataset.classes[guess], count) for (label, guess), count in ranked[:CONFUSIONS]]


def _examples(dataset: Dataset, guesses: Sequence[int], confidence: Sequence[float]) -> list[dict[str, Any]]:
    """First images spread evenly over the data, the same for every method; then some of the remaining mistakes."""
    same = _spread(range(len(guesses)))
    wrong = [i for i, (a, b) in enumerate(zip(dataset.labels, guesses, strict=True)) if a != b and i not in same]
    chosen = same + _spread(wrong)
    return [
        {
            "key": dataset.keys[i] if dataset.keys else str(i),
            "truth": dataset.classes[dataset.labels[i]],
            "guess": dataset.classes[guesses[i]],
            "probability": round(confidence[i], 3),
        }
        for i in chosen
    ]


def _spread(indices: Sequence[int]) -> list[int]:
    count = min(EXAMPLES, len(indices))
    return [indices[len(indices) * n // count] for n in range(count)]


def harmonic_mean(base: float, novel: float) -> float:
    """2 b n / (b + n), the papers' single figure for base and novel accuracy."""
    return 2 * base * novel / (base + novel) if base + novel else 0.0
