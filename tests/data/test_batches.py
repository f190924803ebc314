"""Batches are in order and complete, however far ahead they are read; what is random follows from seed and image."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from PIL import Image

from fewclip.clip.preprocess import Preprocess
from fewclip.data.batches import BATCH, DatasetExamples, TrainingBatches, pixel_batches
from fewclip.data.dataset import Dataset
from fewclip.errors import DataError

PREPROCESS = Preprocess(4, mean=(0, 0, 0), std=(1, 1, 1))


def grey(number: int) -> Image.Image:
    return Image.new("RGB", (6, 4), (number, number, number))


def numbers(pixels: torch.Tensor) -> list[int]:
    """The images of a batch of grey ones."""
    assert pixels.shape[1:] == (3, 4, 4)
    return [round(255 * float(image.mean())) for image in pixels]


def greys(count: int) -> Dataset:
    return Dataset("greys", ("a", "b"), [grey(i) for i in range(count)], [i % 2 for i in range(count)])


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 40])
def test_predictions_are_in_order(count: int) -> None:
    batches = [numbers(batch) for batch in pixel_batches([grey(i) for i in range(count)], PREPROCESS, 4)]
    assert [number for batch in batches for number in batch] == list(range(count))
    assert all(len(batch) == 4 for batch in batches[:-1])


def test_an_iterator_is_read_a_few_batches_ahead() -> None:
    taken = 0

    def images() -> Iterator[Image.Image]:
        nonlocal taken
        for number in range(100):
            taken += 1
            yield grey(number)

    batches = pixel_batches(images(), PREPROCESS, 4)
    assert numbers(next(batches)) == [0, 1, 2, 3]
    assert taken <= 12
    batches.close()  # type: ignore[attr-defined]


def test_an_unreadable_image_ends_the_batches() -> None:
    with pytest.raises(DataError, match="given as int"):
        list(pixel_batches([grey(1), 3], PREPROCESS, 1))


def test_examples_are_in_order_and_augmented_by_seed_pass_and_image() -> None:
    count = 2 * BATCH + 3
    examples = DatasetExamples(greys(count), PREPROCESS, seed=1)
    assert [len(batch) for batch in examples.plain()] == [BATCH, BATCH, 3]
    assert [number for batch in examples.plain() for number in numbers(batch)] == list(range(count))
    picture = Image.linear_gradient("L").convert("RGB")
    examples = DatasetExamples(Dataset("same", ("a",), [picture] * 3, [0] * 3), PREPROCESS, seed=1)
    (first,), (again,), (second,) = (list(examples.augmented(number)) for number in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


def test_epochs_differ_and_can_be_made_again() -> None:
    batches = TrainingBatches(greys(10), PREPROCESS, batch_size=4, seed=1)
    first, again, second = ([numbers(batch.images) for batch in batches.epoch(epoch)] for epoch in (0, 0, 1))
    assert first == again
    assert first != second
    assert [len(batch) for batch in first] == [4, 4]  # the short one is dropped
    assert [numbers(batch.images) for batch in batches.epoch(0, start=1)] == first[1:]
    labels = [batch.labels.tolist() for batch in batches.epoch(0)]
    assert labels == [[number % 2 for number in batch] for batch in first]


def test_shares_are_parts_of_the_same_batches() -> None:
    whole = [numbers(batch.images) for batch in TrainingBatches(greys(8), PREPROCESS, batch_size=4, seed=3).epoch(2)]
    shares = [
        [
            numbers(b.images)
            for b in TrainingBatches(greys(8), PREPROCESS, batch_size=4, seed=3, share=(rank, 2)).epoch(2)
        ]
        for rank in (0, 1)
    ]
    for batch, one, other in zip(whole, *shares, strict=True):
        assert sorted(one + other) == sorted(batch)
        assert not set(one) & set(other)
