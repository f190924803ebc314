"""Published data sets that are incomplete or damaged: one clear sentence for each mistake."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_sets import put, wnids, write_set

from fewclip.data.benchmarks.readers import read_benchmark
from fewclip.data.benchmarks.table import BENCHMARKS, Benchmark
from fewclip.data.read import read_data
from fewclip.errors import DataError

MANY = [[f"b/{i}.jpg", 1, "b"] for i in range(9)]


def write_split(folder: Path, **changes: object) -> Benchmark:
    parts: dict[str, object] = {"train": [["a/1.jpg", 0, "a"], ["b/1.jpg", 1, "b"]], "val": [], "test": []}
    put(folder / "images" / "a" / "1.jpg")
    put(folder / "images" / "b" / "1.jpg")
    (folder / "split_zhou_DescribableTextures.json").write_text(json.dumps(parts | changes))
    return BENCHMARKS["dtd"]


@pytest.mark.parametrize(
    ("train", "says"),
    [
        ([["a/1.jpg", 0, "a"], *MANY], r"10 images, but 8 of them .*b/0.jpg, b/2"),
        ([["../a.jpg", 0, "a"]], r"lists the image '\.\./a\.jpg', which is not a path inside"),
        ([["/etc/a.jpg", 0, "a"]], "not a path inside its folder"),
        ([["C:\\a.jpg", 0, "a"]], "not a path inside its folder"),
        ([["a/1.jpg", 0, "a"], ["b/1.jpg", 0, "b"]], "gives the label 0 the names 'a' and 'b'"),
        ([["a/1.jpg", 0, "a"], ["b/1.jpg", 2, "b"]], "labels that are not 0, 1, 2"),
        ([["a/1.jpg", 0, "a"], ["b/1.jpg", 1, "a"]], "calls both labels 0 and 1 'a'"),
        ([["a/1.jpg", "0", "a"]], r"has the entry .*: expected \[path, label, class name\]"),
        ("a/1.jpg", "is not a split file: expected the lists train, val and test"),
    ],
)
def test_mistakes_in_a_split_file(train: object, says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=says):
        read_benchmark(write_split(tmp_path, train=train), tmp_path)


def test_missing_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEWCLIP_DATA", raising=False)
    with pytest.raises(DataError, match="dtd is a published data set, but its location is not known.* FEWCLIP_DATA"):
        read_data("dtd")
    with pytest.raises(DataError, match="given as root, is not a folder"):
        read_data("dtd", root=tmp_path / "none")
    with pytest.raises(DataError, match="DTD is not in .*dtd: expected that folder .* from robots.ox.ac.uk"):
        read_data("dtd", root=tmp_path)
    with pytest.raises(DataError, match=r"A root was given, but 'photos' is not one of imagenet"):
        read_data("photos", root=tmp_path)
    with pytest.raises(DataError, match="no split 'validation': choose train, val or test"):
        read_data(tmp_path, "validation")
    benchmark = write_split(tmp_path)
    with pytest.raises(DataError, match="The test split of DTD in .* has no images"):
        read_benchmark(benchmark, tmp_path, "test")
    (tmp_path / benchmark.split_file).write_text("{")
    with pytest.raises(DataError, match="can't be read as JSON"):
        read_benchmark(benchmark, tmp_path)
    (tmp_path / benchmark.split_file).unlink()
    with pytest.raises(
        DataError, match="lacks split_zhou_DescribableTextures.json, which defines .* CoOp's Google Drive"
    ):
        read_benchmark(benchmark, tmp_path)


def test_missing_class_folders(tmp_path: Path) -> None:
    folder = write_set(tmp_path, "imagenet_r")
    for name in wnids("R")[:4]:
        shutil.rmtree(folder / "imagenet-r" / name)
    put(folder / "imagenet-r" / "loose.jpg")
    with pytest.raises(DataError, match="lacks 4 of the 200 class folders of ImageNet-R .* sorted into them"):
        read_data("imagenet_r", "test", root=tmp_path)


def test_mistakes_in_the_aircraft_lists(tmp_path: Path) -> None:
    folder = write_set(tmp_path, "fgvc_aircraft")
    assert read_data(folder).classes == ("707-320", "DR-400", "F-16A/B", "Falcon 900", "Model B200", "Yak-42")
    (folder / "images_variant_val.txt").write_text("0034310 Zeppelin\n")
    with pytest.raises(DataError, match="has the line '0034310 Zeppelin': expected an image and a class"):
        read_data(folder, "val")
    (folder / "variants.txt").unlink()
    with pytest.raises(DataError, match="variants.txt can't be read"):
        read_data(folder)
