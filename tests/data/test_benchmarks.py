"""The 15 published data sets: facts, layouts, picks, halves."""

from __future__ import annotations

import csv
import hashlib
import shutil
from pathlib import Path

import pytest
from tiny_sets import SHARED, write_set

from fewclip.data.benchmarks.imagenet import class_folders
from fewclip.data.benchmarks.readers import list_split
from fewclip.data.benchmarks.table import BENCHMARKS, Benchmark, find_benchmark
from fewclip.data.dataset import Dataset
from fewclip.data.read import read_data
from fewclip.errors import DataError

SPLITS = SHARED / "splits"
HASHES = SPLITS / "fewshot_sha256.csv"
SPLIT_SETS = ("caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "dtd", "eurosat", "ucf101")
needs_shared = pytest.mark.skipif(not HASHES.exists(), reason=f"the reference splits are not in {SHARED}")
needs_photos = pytest.mark.skipif(not (SHARED / "data").exists(), reason=f"the small real data is not in {SHARED}")


def published(key: str, tmp_path: Path) -> dict[str, Dataset]:
    """All splits of a set with its published split file, without images."""
    benchmark = BENCHMARKS[key]
    folder = tmp_path / benchmark.directory
    folder.mkdir()
    places = (SPLITS / "split_zhou", SHARED / "data" / benchmark.directory)
    (file,) = (place / benchmark.split_file for place in places if (place / benchmark.split_file).exists())
    shutil.copy(file, folder)
    parts = {split: list_split(benchmark, folder, split) for split in ("train", "val", "test")}
    return {s: Dataset(key, p.classes, p.paths, p.labels, p.paths, published=True) for s, p in parts.items()}


def test_the_table() -> None:
    assert len(BENCHMARKS) == 15
    halves = {b.key: (b.base, b.classes - b.base) for b in BENCHMARKS.values() if b.base is not None}
    assert halves == {
        "imagenet": (500, 500),
        "caltech101": (50, 50),
        "oxford_pets": (19, 18),
        "stanford_cars": (98, 98),
        "oxford_flowers": (51, 51),
        "food101": (51, 50),
        "fgvc_aircraft": (50, 50),
        "sun397": (199, 198),
        "dtd": (24, 23),
        "eurosat": (5, 5),
        "ucf101": (51, 50),
    }
    assert find_benchmark("Flowers102") is find_benchmark("oxford-flowers") is BENCHMARKS["oxford_flowers"]
    assert find_benchmark("ImageNet-A").sentence == "a photo of a {}."
    assert find_benchmark("DescribableTextures").sentence == "{} texture."
    with pytest.raises(DataError, match="no benchmark data set 'cifar10': choose from imagenet, caltech101"):
        find_benchmark("cifar10")


def test_imagenet_names() -> None:
    names = list(class_folders("all").values())
    assert (len(names), names[7], names[657], names[744]) == (1000, "rooster", "missile", "missile")
    assert len(set(names)) == 998
    assert [len(class_folders(m)) for m in ("A", "R", "numbers")] == [200, 200, 1000]
    assert list(class_folders("A")) == sorted(class_folders("A"))
    if HASHES.exists():
        given = list(csv.DictReader((SPLITS / "imagenet_classes.csv").open()))
        assert list(class_folders("all").items()) == [(row["folder"], row["clip_name"]) for row in given]


@needs_shared
@pytest.mark.parametrize("key", SPLIT_SETS)
def test_picks_are_the_published_ones(key: str, tmp_path: Path) -> None:
    parts = published(key, tmp_path)
    assert tuple(map(len, parts.values())) == BENCHMARKS[key].sizes
    assert {len(part.classes) for part in parts.values()} == {BENCHMARKS[key].classes}
    wanted = [row for row in csv.DictReader(HASHES.open()) if row["dataset"] == key]
    assert len(wanted) == 30
    for row in wanted:
        shots, seed = int(row["shots"]), int(row["seed"])
        picks = dict(zip(("train", "val"), parts["train"].few_shot_and_val(parts["val"], shots, seed), strict=True))
        keys = picks[row["split"]].keys
        assert len(keys) == int(row["count"])
        assert hashlib.sha256("\n".join(keys).encode()).hexdigest() == row["sha256"]
        assert picks["train"].keys == parts["train"].few_shot(shots, seed).keys


@needs_shared
@pytest.mark.parametrize("key", ["oxford_flowers", "stanford_cars"])
def test_a_half_has_the_picks_of_the_whole(key: str, tmp_path: Path) -> None:
    parts = published(key, tmp_path)
    train = parts["train"]
    every = train.few_shot(16, 1)
    base, novel = train.halves()
    for half in (base, novel):
        picks = train.only(half).few_shot(16, 1)
        assert picks.classes == half
        names = [train.classes[label] for label in every.labels]
        assert picks.keys == [key for key, name in zip(every.keys, names, strict=True) if name in half]
    sizes = [len(parts["test"].only(half)) for half in (base, novel)]
    assert sizes == {"oxford_flowers": [1053, 1410], "stanford_cars": [4002, 4039]}[key]


@needs_photos
def test_real_images(monkeypatch: pytest.MonkeyPatch) -> None:
    root = SHARED / "data"
    for key, first in (("caltech101", "face"), ("oxford_flowers", "pink primrose")):
        benchmark = BENCHMARKS[key]
        parts = [read_data(key, split, root=root) for split in ("train", "val", "test")]
        assert tuple(map(len, parts)) == benchmark.sizes
        assert parts[0].classes[0] == first
        assert (parts[0].template, parts[0].base) == (benchmark.sentence, (benchmark.classes + 1) // 2)
        assert read_data(root / benchmark.directory, "val") == parts[1]
        assert read_data(benchmark.title, root=root / benchmark.directory).keys == parts[0].keys
    monkeypatch.setenv("FEWCLIP_DATA", str(root))
    assert len(read_data("caltech101", "test")) == 2465
    with pytest.raises(DataError, match=r"is a root of published data sets \(caltech-101, oxford_flowers\)"):
        read_data(root)


def listed(file: Path) -> list[tuple[str, str]]:
    """Image and class of each line; names of aircraft may contain blanks."""
    return [(f"{line[:7]}.jpg", line[8:]) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("benchmark", BENCHMARKS.values(), ids=lambda b: b.key)
def test_every_layout(benchmark: Benchmark, tmp_path: Path) -> None:
    folder = write_set(tmp_path, benchmark.key)
    for split in benchmark.splits:
        data = read_data(benchmark.key, split, root=tmp_path)
        assert all(Path(image).is_file() for image in data.images)
        assert (data.name, data.template, data.published) == (benchmark.key, benchmark.sentence, True)
        assert not any(str(tmp_path) in key for key in data.keys)
        assert read_data(folder, split) == data
        per_class = {"train": 3, "val": 1, "test": 2}[split]
        assert {data.labels.count(label) for label in set(data.labels)} == {per_class}
        assert len(data.few_shot(2, 1)) == min(2, per_class) * len(set(data.labels))
    if benchmark.reader == "variant lists":
        assert data.classes == ("707-320", "DR-400", "F-16A/B", "Falcon 900", "Model B200", "Yak-42")
        names = [data.classes[label] for label in data.labels]
        assert dict(zip(data.keys, names, strict=True)) == dict(listed(folder / "images_variant_test.txt"))
    if benchmark.reader == "class folders":
        assert len(data.classes) == benchmark.classes
        assert sorted(set(data.labels)) == [0, benchmark.classes - 1]
    if benchmark.splits == ("test",):
        with pytest.raises(DataError, match="has no train split, it is only for testing"):
            read_data(benchmark.key, root=tmp_path)


def test_imagenet_reads_sorted_and_val_is_test(tmp_path: Path) -> None:
    write_set(tmp_path, "imagenet")
    train = read_data("imagenet", root=tmp_path)
    assert train.keys[:3] == [f"train/n01440764/n01440764_{i}.JPEG" for i in (1, 2, 3)]
    assert read_data("imagenet", "val", root=tmp_path) == read_data("imagenet", "test", root=tmp_path)
    assert len(train.only(train.classes).classes) == 1000


def test_equal_names_stay_apart() -> None:
    data = Dataset("x", ("missile", "tench", "missile"), list("abcd"), [0, 2, 1, 2], published=True)
    assert list(data.only(("tench", "missile", "missile")).labels) == [1, 2, 0, 2]
    assert list(data.only(("missile",)).images) == ["a"]
    assert len(data.few_shot(2, 1)) == 4  # all of a class that has fewer
