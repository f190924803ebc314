"""Evaluation: the numbers of a result, computed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from fewclip.adapters.adapter import Adapter
from fewclip.bench.evaluation import Result, calibration_error, choose, evaluate, harmonic_mean, without
from fewclip.classifier import FewShotClassifier
from fewclip.data.dataset import Dataset
from fewclip.data.read import read_data
from fewclip.errors import DataError


class Says:
    """Stands in for an adapter: an image is its index, and for each there is a guess and its probability."""

    def __init__(self, guesses: Sequence[int], probability: float = 0.9) -> None:
        self.guesses, self.probability = guesses, probability

    def scores(self, images: Sequence[int], classes: Sequence[str], **_: Any) -> torch.Tensor:
        rest = (1 - self.probability) / (len(classes) - 1)
        rows = torch.full((len(images), len(classes)), rest, dtype=torch.double)
        for row, image in enumerate(images):
            rows[row, self.guesses[image]] = self.probability
        return rows.log()


def result(labels: Sequence[int], guesses: Sequence[int], classes: Sequence[str] = ("a", "b", "c")) -> Result:
    data = Dataset(name="by hand", classes=tuple(classes), images=range(len(labels)), labels=labels)
    return evaluate(cast(Adapter, Says(guesses)), data)


def test_accuracy_counts_images_and_mean_class_accuracy_classes() -> None:
    """Four images of a, all right; two of b, one right; one of c, wrong."""
    found = result([0, 0, 0, 0, 1, 1, 2], [0, 0, 0, 0, 1, 0, 0])
    assert found.per_class == {"a": 100.0, "b": 50.0, "c": 0.0}
    assert found.accuracy == pytest.approx(100 * 5 / 7, abs=0.005)
    assert found.mean_class_accuracy == 50.0
    assert (found.images, found.classes) == (7, 3)
    assert found.confusions == [("b", "a", 1), ("c", "a", 1)]


def test_a_candidate_without_images_is_in_no_mean() -> None:
    found = result([0, 0, 1], [0, 2, 1])
    assert found.per_class == {"a": 50.0, "b": 100.0}
    assert found.mean_class_accuracy == 75.0
    assert found.classes == 3


def test_the_most_frequent_mistakes_come_first() -> None:
    found = result([0, 0, 1, 1, 1, 2], [1, 1, 2, 2, 2, 2])
    assert found.confusions == [("b", "c", 3), ("a", "b", 2)]


def test_calibration_of_a_result_is_in_points() -> None:
    """All at 0.9 confidence, half of them right: 40 points apart."""
    assert result([0, 0, 1, 1], [0, 1, 1, 0]).calibration_error == pytest.approx(40.0, abs=0.005)


def test_calibration_error_by_hand() -> None:
    confidence = torch.tensor([0.95, 0.97, 0.55, 0.55], dtype=torch.double)
    right = torch.tensor([True, False, True, False])
    # bin of 0.95 and 0.97: mean 0.96 against 1/2; bin of 0.55: 0.55 against 1/2; each half of the images
    assert calibration_error(confidence, right) == pytest.approx(0.5 * 0.46 + 0.5 * 0.05)
    assert calibration_error(torch.ones(3, dtype=torch.double), torch.ones(3, dtype=torch.bool)) == 0


def test_calibration_error_has_15_bins_whose_gaps_do_not_cancel() -> None:
    """0.66 and 0.68 are in one of ten bins, but in two of fifteen; one is too low, the other too high."""
    confidence, right = torch.tensor([0.66, 0.68], dtype=torch.double), torch.tensor([True, False])
    assert calibration_error(confidence, right) == pytest.approx((0.34 + 0.68) / 2)
    close = torch.tensor([0.61, 0.66], dtype=torch.double)  # in one of fifteen bins, but in two of twenty
    assert calibration_error(close, right) == pytest.approx((1.27 - 1) / 2)
    uneven = torch.tensor([0.95, 0.95, 0.95, 0.5], dtype=torch.double)  # a bin counts by its images
    assert calibration_error(uneven, torch.tensor([True, True, True, False])) == pytest.approx((3 * 0.05 + 0.5) / 4)


def test_harmonic_mean() -> None:
    assert harmonic_mean(80.0, 60.0) == pytest.approx(2 * 80 * 60 / 140)
    assert harmonic_mean(0.0, 0.0) == 0.0


def test_confusions_and_examples(photos: Path, backbone_file: Path) -> None:
    model = FewShotClassifier("zero-shot", str(backbone_file), shots=2).fit(photos)
    data = read_data(photos)
    found = evaluate(model.adapter_, data)
    truth = [data.classes[label] for label in data.labels]
    guesses = model.predict(data.images)
    wrong = [(t, g) for t, g in zip(truth, guesses, strict=True) if t != g]
    assert sum(count for _, _, count in found.confusions) == len(wrong) > 0
    assert all(count == wrong.count((t, g)) for t, g, count in found.confusions)
    by_key = dict(zip(data.keys, zip(truth, guesses, strict=True), strict=True))
    assert all(by_key[e["key"]] == (e["truth"], e["guess"]) for e in found.examples)


def test_examples_are_the_same_images_for_every_method() -> None:
    labels = [i % 3 for i in range(60)]
    one, other = result(labels, labels), result(labels, [0] * 60)
    first = [e["key"] for e in one.examples]
    assert len(first) == len(set(first)) == 12
    assert [e["key"] for e in other.examples][:12] == first
    assert all(e["truth"] != e["guess"] for e in other.examples[12:])


def test_splits_by_what_was_trained() -> None:
    data = Dataset(name="by hand", classes=("a", "b", "c"), images=range(3), labels=(0, 1, 2), keys=("0", "1", "2"))
    assert choose(data, ["B", "a"], "base").classes == ("a", "b")  # names are compared as prompts are
    assert choose(data, ["b", "a"], "novel").classes == ("c",)
    assert choose(data, ["b", "a"], "all").classes == ("a", "b", "c")
    with pytest.raises(DataError, match="use the split 'base'"):
        choose(data, ["a", "b", "c"], "novel")
    assert list(without(data, ["1"]).keys) == ["0", "2"]


def test_no_image_left(photos: Path, backbone_file: Path) -> None:
    model = FewShotClassifier("zero-shot", str(backbone_file), shots=2).fit(photos)
    with pytest.raises(DataError, match="No image of photos is left"):
        evaluate(model.adapter_, read_data(photos).take([]))
