"""Folders, lists, few-shot picks, halves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from fewclip.data.dataset import Dataset, few_shot
from fewclip.data.folder import read_folder
from fewclip.data.read import from_pairs, read_data
from fewclip.errors import DataError

SHARED = Path(__file__).parents[3] / "shared"
PICKS = SHARED / "splits" / "caltech101_fewshot.json"
SPLIT = SHARED / "data" / "caltech-101" / "split_zhou_Caltech101.json"


def test_folder(photos: Path) -> None:
    (photos / "blue" / "deeper").mkdir()
    Image.new("RGB", (4, 4)).save(photos / "blue" / "deeper" / "x.jpg")
    (photos / "blue" / ".hidden.png").write_bytes(b"")
    (photos / "blue" / "notes.txt").write_text("no image")
    (photos / "light_blue").mkdir()
    Image.new("RGB", (4, 4)).save(photos / "light_blue" / "a.PNG")
    (photos / "empty").mkdir()
    data = read_folder(photos)
    assert data.classes == ("blue", "green", "light blue", "red")
    assert [data.labels.count(i) for i in range(4)] == [9, 8, 1, 8]
    assert data.keys[8] == "blue/deeper/x.jpg"
    assert read_data(photos, "test") == data


def test_folder_with_splits(photos: Path, tmp_path: Path) -> None:
    root = tmp_path / "both"
    root.mkdir()
    photos.rename(root / "train")
    (root / "test" / "red").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(root / "test" / "red" / "a.png")
    assert len(read_folder(root)) == 24
    test = read_folder(root, "test")
    assert test.classes == ("red",)
    assert test.keys == ["test/red/a.png"]
    with pytest.raises(DataError, match="has the splits test, train, but no folder for the split 'val'"):
        read_folder(root, "val")


def test_folder_mistakes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no folder '.*nowhere'"):
        read_data(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="has no classes: it holds no folder with images"):
        read_data(tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="1 images lie in it directly"):
        read_data(tmp_path)
    with pytest.raises(DataError, match="is a file"):
        read_folder(tmp_path / "a.png")
    with pytest.raises(DataError, match="No images were given"):
        read_data([])
    with pytest.raises(DataError, match="Expected pairs"):
        read_data([("a.png", "cat", 3)])  # type: ignore[list-item]
    with pytest.raises(DataError, match=r"Label 1 is 3\.5"):
        read_data([("a.png", 3), ("b.png", 3.5)])  # type: ignore[list-item]


def test_only_and_halves() -> None:
    data = from_pairs([(str(i), name) for i, name in enumerate("abcabcabc")])
    assert data.halves() == (("a", "b"), ("c",))
    part = data.only(["c", "a"])
    assert part.classes == ("c", "a")
    assert [(part.images[i], part.labels[i]) for i in range(3)] == [("0", 1), ("2", 0), ("3", 1)]


def test_fewer_images_than_shots() -> None:
    data = Dataset("toys", ("a", "b"), list(range(5)), [0, 0, 0, 1, 1])
    assert len(data.few_shot(2, 1)) == 4
    with pytest.raises(DataError, match=r"Class 'b' of toys has 2 training images, but 3 shots .* at most 2 shots"):
        data.few_shot(3, 1)


def test_few_shot_takes_all_of_a_small_class() -> None:
    assert (
        few_shot([0, 1, 1, 1, 0], 3, 1) == [0, 4, *few_shot([1, 1, 1], 3, 1)][:2] + few_shot([9, 1, 1, 1, 9], 3, 1)[2:]
    )
    assert sorted(few_shot([0, 1, 1, 1, 0], 3, 1)) == [0, 1, 2, 3, 4]


@pytest.mark.skipif(not (PICKS.exists() and SPLIT.exists()), reason=f"the split files of data sets are not in {SHARED}")
@pytest.mark.parametrize("shots", [1, 2, 4, 8, 16])
def test_picks_are_the_published_ones(shots: int) -> None:
    train = json.loads(SPLIT.read_text())["train"]
    published = json.loads(PICKS.read_text())["picks"][str(shots)]
    for seed, parts in published.items():
        picks = few_shot([label for _, label, _ in train], shots, int(seed))
        assert [train[i][0] for i in picks] == parts["train"]
