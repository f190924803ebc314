"""Labels: text and whole numbers come back as they came; anything else is one sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fewclip import FewShotClassifier
from fewclip.adapters.adapter import Adapter
from fewclip.clip.model import CLIP
from fewclip.data.labels import read_labels
from fewclip.data.read import from_pairs
from fewclip.errors import AdapterError, DataError, PromptError

Pairs = list[tuple[Image.Image, str]]
NUMBERS = [10] * 4 + [2] * 4 + [30] * 4


@pytest.fixture
def images(pairs: Pairs) -> list[Image.Image]:
    return [image for image, _ in pairs]


def probe(backbone: CLIP, **given: Any) -> FewShotClassifier:
    return FewShotClassifier("linear-probe", backbone, shots=None, **given)


@pytest.mark.parametrize(
    "labels",
    [
        NUMBERS,
        np.array(NUMBERS),
        np.array(NUMBERS, np.uint8),
        torch.tensor(NUMBERS),
        list(torch.tensor(NUMBERS)),
        list(np.array(NUMBERS, np.int32)),
        [np.array(number) for number in NUMBERS],
    ],
)
def test_whole_numbers_come_back(backbone: CLIP, images: list[Image.Image], labels: Any, tmp_path: Path) -> None:
    classifier = probe(backbone).fit(images, labels)
    assert classifier.classes_.dtype.kind == "i"
    assert classifier.classes_.tolist() == [2, 10, 30]
    assert classifier.predict(images).tolist() == NUMBERS
    assert classifier.score(images, labels) == 1
    classifier.save(tmp_path / "a")
    again = FewShotClassifier.load(tmp_path / "a", backbone=backbone)
    assert again.classes_.dtype.kind == "i"
    assert again.predict(images).tolist() == NUMBERS
    paired = probe(backbone).fit(list(zip(images, labels, strict=True)))
    assert paired.predict(images).tolist() == NUMBERS


@pytest.mark.parametrize("kind", [list, np.array, lambda names: np.array(names, object), lambda n: list(np.array(n))])
def test_text_comes_back(backbone: CLIP, pairs: Pairs, images: list[Image.Image], kind: Any) -> None:
    names = [name for _, name in pairs]
    classifier = probe(backbone).fit(images, kind(names))
    assert classifier.classes_.dtype.kind == "U"
    assert classifier.predict(images).tolist() == names


@pytest.mark.parametrize(
    ("label", "says"),
    [
        (None, r"is None \(NoneType\)"),
        (float("nan"), r"is nan \(a continuous value\)"),
        (2.5, r"is 2.5 \(a continuous value\)"),
        (np.float32(2), r"is 2.0 \(a continuous value\)"),
        (torch.tensor(2.5), r"is 2.5 \(a continuous value\)"),
        ([0, 1], r"is \[0, 1\], several values: .* one-hot rows"),
        (np.array([0, 1, 0]), r"is array\(\[0, 1, 0\]\), several values: .* y.argmax"),
        (torch.tensor([0, 1]), "several values"),
        (True, r"is True: .* such as 'cracked' and 'whole'"),
        (np.bool_(False), "is False"),
        (b"cat", r"\(bytes\)"),
        (2**70, "whole numbers are at most"),
    ],
)
def test_anything_else_is_refused(backbone: CLIP, images: list[Image.Image], label: Any, says: str) -> None:
    classifier = probe(backbone)
    labels = [*NUMBERS[:4], label, *NUMBERS[5:]]
    with pytest.raises(DataError, match=f"^Label 4 .*{says}"):
        classifier.fit(images, labels)
    with pytest.raises(DataError, match=f"^Label 4 .*{says}"):
        classifier.fit(list(zip(images, labels, strict=True)))


def test_other_mistakes_with_labels(backbone: CLIP, images: list[Image.Image]) -> None:
    wrong: list[tuple[Any, str]] = [
        ("red", "The labels are 'red': expected one label per image"),
        (7, "The labels are 7"),
        (NUMBERS[1:], "12 images were given with 11 labels"),
        (["red", *NUMBERS[1:]], r"mix text \('red'\) and whole numbers \(10\)"),
        (np.eye(3)[[0] * 4 + [1] * 4 + [2] * 4], "Label 0 is .*several values"),
    ]
    for labels, says in wrong:
        with pytest.raises(DataError, match=says):
            probe(backbone).fit(images, labels)


def test_class_names_of_numbers(backbone: CLIP, images: list[Image.Image], tmp_path: Path) -> None:
    names = {10: "blue", 2: "green", 30: "red", 5: "yellow"}
    zero_shot = FewShotClassifier("zero-shot", backbone, shots=None)
    by_name = zero_shot.fit(images, [names[number] for number in NUMBERS]).predict_proba(images)
    zero_shot.set_params(class_names=names).fit(images, NUMBERS)
    assert zero_shot.adapter_.classes == ["green", "blue", "red"]
    np.testing.assert_allclose(zero_shot.predict_proba(images)[:, [1, 0, 2]], by_name, rtol=1e-5)
    zero_shot.add_classes([5])
    zero_shot.save(tmp_path / "a")
    again = FewShotClassifier.load(tmp_path / "a", backbone=backbone)
    for one in (zero_shot, again):
        assert one.classes_.tolist() == [2, 10, 30, 5]
        assert one.adapter_.classes == ["green", "blue", "red", "yellow"]
        assert one.score(images, NUMBERS) == zero_shot.score(images, NUMBERS)
    assert again.fit(images, NUMBERS).adapter_.classes == ["green", "blue", "red"]
    assert from_pairs([(images[0], 1), (images[1], 0)], class_names=["cat", "dog"]).classes == ("cat", "dog")
    with pytest.raises(DataError, match=r"class_names has no name for the label 2: it names \['cat', 'dog'\], 2"):
        probe(backbone, class_names=["cat", "dog"]).fit(images, [30, *NUMBERS[1:]])
    with pytest.raises(DataError, match="no name for the label -1"):
        read_labels([-1, 0], ["cat", "dog"])


def test_candidates_and_further_classes(backbone: CLIP, images: list[Image.Image], pairs: Pairs) -> None:
    classifier = FewShotClassifier("zero-shot", backbone, shots=None).fit(images, NUMBERS)
    assert set(classifier.predict(images, [30, 7]).tolist()) <= {7, 30}
    assert set(classifier.predict(images, [30, "a zebra"]).tolist()) <= {30, "a zebra"}
    assert classifier.add_classes(["a zebra", "a horse"]).classes_.tolist() == [2, 10, 30, 31, 32]
    assert classifier.add_classes([7]).classes_.tolist() == [2, 10, 30, 31, 32, 7]
    assert classifier.adapter_.classes == ["2", "10", "30", "a zebra", "a horse", "7"]
    assert classifier.predict(images, "a zebra").tolist() == 12 * ["a zebra"]
    before = classifier.classes_.tolist()
    mistakes: list[tuple[Any, type[Exception], str]] = [
        ([8, "a cow"], DataError, "mix names and whole numbers"),
        ([7], PromptError, "make the same prompt"),
        ([9, 9.5], DataError, "Class 1 is 9.5"),
        (["a cow", ""], PromptError, "class name"),
    ]
    for wrong, kind, says in mistakes:
        with pytest.raises(kind, match=says):
            classifier.add_classes(wrong)
        assert classifier.classes_.tolist() == before
    with pytest.raises(PromptError, match="label 10 already belongs to another class"):
        classifier.set_params(class_names={10: "ten"}).adapter_.add_classes(["ten"], [10])
    text = probe(backbone).fit(pairs)
    with pytest.raises(DataError, match="A class is given as 0, but the labels in training were text"):
        text.predict(images, [0, 1])


def test_adapters_without_labels_load_and_wrong_ones_do_not(
    backbone: CLIP, images: list[Image.Image], tmp_path: Path
) -> None:
    probe(backbone).fit(images, NUMBERS).save(tmp_path / "a")
    path = tmp_path / "a" / "adapter_config.json"
    config = json.loads(path.read_text())
    assert (config["format"], config["labels"]) == (1, [2, 10, 30])
    for labels, says in (([2, 10], "2 labels"), ([2, 2, 30], "2 labels"), (["2", "10", "30"], "labels is")):
        path.write_text(json.dumps(config | {"labels": labels}))
        with pytest.raises(AdapterError, match=says):
            Adapter.load(tmp_path / "a", backbone=backbone)
    del config["labels"]
    path.write_text(json.dumps(config))  # as an older fewclip wrote it
    assert FewShotClassifier.load(tmp_path / "a", backbone=backbone).classes_.tolist() == ["2", "10", "30"]


def test_parts_of_a_data_set_keep_the_labels(images: list[Image.Image]) -> None:
    data = from_pairs(list(zip(images, NUMBERS, strict=True)))
    assert data.numbers == (2, 10, 30)
    assert data.few_shot(2, 1).numbers == (2, 10, 30)
    assert data.only(["30", "2"]).numbers == (30, 2)
    assert data.only(["30", "99"]).numbers == ()


@pytest.mark.parametrize(
    ("data", "labels", "says"),
    [
        (None, None, "The data is None: expected a folder"),
        (3, None, "The data is 3: expected a folder"),
        (None, ["a", "b"], "Labels were given with None: expected a list of images"),
        (Image.new("RGB", (9, 9)), ["a", "b"], "Labels were given with <PIL.Image.Image"),
        ("photos", ["a", "b"], "Labels were given with 'photos': expected a list of images"),
        ([1, 2], np.array("a"), "The labels are array('a'"),
        ([1, 2], {"a", "b"}, "The labels are {"),
        ([1, 2], {"a": 1, "b": 2}, "The labels are {"),
    ],
)
def test_what_is_no_list(backbone: CLIP, data: Any, labels: Any, says: str) -> None:
    with pytest.raises(DataError, match=re.escape(says)):
        probe(backbone).fit(data, labels)


def test_a_table_is_read_by_rows(backbone: CLIP, images: list[Image.Image]) -> None:
    class Table:  # such as a DataFrame, which iterates over the names of its columns
        def __init__(self, values: np.ndarray) -> None:
            self.values = values

        def __len__(self) -> int:
            return len(self.values)

        def __iter__(self) -> Iterator[str]:
            return iter([f"column {i}" for i in range(len(self.values[0]))])

        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            return self.values

    for columns in (1, 12):
        with pytest.raises(DataError, match=r"^Label 0 is array\(.* for a column y\.ravel\(\)\.$"):
            probe(backbone).fit(images, Table(np.full((12, columns), "a")))  # type: ignore[arg-type]


def test_candidates_from_a_generator(backbone: CLIP, images: list[Image.Image]) -> None:
    for labels in (NUMBERS, [f"class {number}" for number in NUMBERS]):
        fitted = probe(backbone).fit(images, labels)
        assert fitted.predict(images, (label for label in fitted.classes_)).tolist() == list(labels)  # type: ignore[arg-type]
        for nothing in (3, None, np.array(3), torch.tensor(3)):
            with pytest.raises(DataError, match="The classes are .*: expected a list of names or of whole numbers"):
                fitted.add_classes(nothing)  # type: ignore[arg-type]
    for nothing in (None, 3):
        with pytest.raises(DataError, match="An image was given as (NoneType|int)"):
            fitted.predict(nothing)
