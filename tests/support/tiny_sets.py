"""Tiny copies of the published data sets, in their real folder layouts."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

from PIL import Image

from fewclip.data.benchmarks.table import BENCHMARKS, Benchmark

SHARED = Path(os.environ.get("FEWCLIP_SHARED", Path(__file__).parents[3] / "shared"))

SPLIT_PATHS = {
    "caltech101": ("accordion/image_{:04}.jpg", "yin_yang/image_{:04}.jpg"),
    "oxford_pets": ("Abyssinian_{}.jpg", "yorkshire_terrier_{}.jpg"),
    "stanford_cars": ("cars_train/{:05}.jpg", "cars_test/{:05}.jpg"),
    "oxford_flowers": ("image_0{:04}.jpg", "image_1{:04}.jpg"),
    "food101": ("apple_pie/{}.jpg", "waffles/{}.jpg"),
    "sun397": ("a/abbey/sun_{}.jpg", "w/wrestling_ring/indoor/sun_{}.jpg"),
    "dtd": ("banded/banded_{:04}.jpg", "zigzagged/zigzagged_{:04}.jpg"),
    "eurosat": ("AnnualCrop/AnnualCrop_{}.jpg", "SeaLake/SeaLake_{}.jpg"),
    "ucf101": ("Apply_Eye_Makeup/v_ApplyEyeMakeup_g{:02}_c01.jpg", "Yo_Yo/v_YoYo_g{:02}_c01.jpg"),
}
"""How images of a first and a last class are called."""


def jpeg(colour: tuple[int, int, int] = (90, 120, 40)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def put(path: Path, data: bytes | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg() if data is None else data)


def write_set(root: Path, key: str) -> Path:
    """A data set in its layout below `root`, with two classes that have images; returns its own folder."""
    benchmark = BENCHMARKS[key]
    folder = root / benchmark.directory
    write = {"split file": _split_file, "variant lists": _variant_lists, "class folders": _class_folders}
    write[benchmark.reader](benchmark, folder)
    return folder


def _split_file(benchmark: Benchmark, folder: Path) -> None:
    number = 0
    parts: dict[str, list[tuple[str, int, str]]] = {"train": [], "val": [], "test": []}
    for split, count in (("train", 3), ("val", 1), ("test", 2)):
        for label in (1, 0):  # order of first appearance is not that of the labels
            for _ in range(count):
                number += 1
                path = SPLIT_PATHS[benchmark.key][label].format(number)
                parts[split].append((path, label, f"class_{label}"))
                put(folder / benchmark.images / path)
    (folder / benchmark.split_file).write_text(json.dumps(parts))


def _variant_lists(benchmark: Benchmark, folder: Path) -> None:
    names = ("707-320", "DR-400", "F-16A/B", "Falcon 900", "Model B200", "Yak-42")
    number = 34309
    for split, count in (("train", 3), ("val", 1), ("test", 2)):
        lines = []
        for name in names * count:
            number += 1
            lines.append(f"{number:07} {name}\n")
            put(folder / "images" / f"{number:07}.jpg")
        (folder / f"images_variant_{split}.txt").write_text("".join(lines))
    (folder / "variants.txt").write_text("".join(f"{name}\n" for name in names))


def wnids(members: str = "all") -> list[str]:
    """Class folders of ImageNet and its variants, from the shared facts' own copy in the package."""
    table = Path(__file__).parents[2] / "src" / "fewclip" / "data" / "benchmarks" / "imagenet_classes.csv"
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if members == "numbers":
        return [str(i) for i in range(1000)]
    return [row["folder"] for row in rows if members == "all" or row[f"in_imagenet_{members.lower()}"] == "1"]


def _class_folders(benchmark: Benchmark, folder: Path) -> None:
    start = folder / benchmark.images
    for part in ("train", "val") if benchmark.key == "imagenet" else ("",):
        names = wnids(benchmark.members)
        for name in names:
            (start / part / name).mkdir(parents=True)
        for name in (names[0], names[-1]):
            for number in (2, 1, 3) if part == "train" else (1, 2):
                put(start / part / name / f"{name}_{number}.JPEG")
        (start / "README.txt").write_text("not a class")
