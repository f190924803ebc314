"""The three ways in which the published data sets record which image belongs to which class.

A reader lists what a split *should* contain. Whether those images exist is checked by `read_benchmark`, which refuses the
data set if not, and by `fewclip.data.benchmarks.check`, which counts. Nothing is cached: the disk is read every time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewclip.data.benchmarks.imagenet import class_folders
from fewclip.data.benchmarks.table import SPLIT_FILES, Benchmark
from fewclip.data.dataset import Dataset
from fewclip.data.folder import ENDINGS
from fewclip.data.paths import check_inside, refuse_absent, some
from fewclip.errors import DataError
from fewclip.files.read import parse_json, read_bytes, read_text

ROOT_VARIABLE = "FEWCLIP_DATA"


@dataclass(frozen=True)
class Listing:
    """The images of a split: paths relative to the benchmark's images folder, labels, and all class names."""

    classes: tuple[str, ...]
    paths: list[str]
    labels: list[int]


def read_benchmark(benchmark: Benchmark, folder: Path, split: str = "train") -> Dataset:
    """One split of a benchmark whose own folder (such as root/caltech-101) is `folder`.

    Raises:
        DataError: something is missing or damaged, or the set has no such split.
    """
    listing = list_split(benchmark, folder, split)
    images = folder / benchmark.images
    if not listing.paths:
        raise DataError(
            f"The {split} split of {benchmark.title} in {folder} has no images: get it from {benchmark.source}."
        )
    if benchmark.reader != "class folders":
        refuse_absent(images, listing.paths, f"The {split} split of {benchmark.title}")
    return Dataset(
        benchmark.key,
        listing.classes,
        [f"{images}{os.sep}{path}" for path in listing.paths],
        listing.labels,
        listing.paths,
        template=benchmark.sentence,
        base=benchmark.base,
        published=True,
    )


def list_split(benchmark: Benchmark, folder: Path, split: str) -> Listing:
    """The content of a split. ImageNet's val split is its test split, as in the published code.

    Raises:
        DataError
    """
    if not folder.is_dir():
        raise DataError(
            f"{benchmark.title} is not in {folder}: expected that folder with {benchmark.images or 'its images'} in "
            f"it, from {benchmark.source}."
        )
    if benchmark.splits == ("test",) and split != "test":
        raise DataError(f"{benchmark.title} has no {split} split, it is only for testing: read its test split.")
    return READERS[benchmark.reader](benchmark, folder, split)


def find_folder(benchmark: Benchmark, root: str | os.PathLike[str] | None = None) -> Path:
    """A benchmark's own folder: under `root`, or `root` itself; without a root, under $FEWCLIP_DATA.

    Raises:
        DataError: no root is given, or it is not a folder.
    """
    given = root if root is not None else os.environ.get(ROOT_VARIABLE)
    if not given:
        raise DataError(
            f"{benchmark.key} is a published data set, but its location is not known: give the folder that contains "
            f"{benchmark.directory}/ as root, or in the environment variable {ROOT_VARIABLE}."
        )
    place = Path(given)
    if not os.path.isdir(place):
        whose = "root" if root is not None else ROOT_VARIABLE
        raise DataError(f"{place}, given as {whose}, is not a folder: give the one that holds {benchmark.directory}/.")
    below = place / benchmark.directory
    return place if not below.is_dir() and (place / benchmark.sign).exists() else below


def read_split_file(benchmark: Benchmark, folder: Path, split: str) -> Listing:
    """`split_zhou_*.json`: {"train": [[path, label, class name], …], "val": …, "test": …}."""
    file = folder / benchmark.split_file
    if not file.is_file():
        raise DataError(
            f"{folder} lacks {benchmark.split_file}, which defines train, val and test (results on a different split "
            f"are not comparable): put it there, from {SPLIT_FILES}."
        )
    parts = _parse(file)
    names: dict[int, str] = {}
    for path, label, name in (entry for part in parts.values() for entry in part):
        check_inside(path, str(file))
        if names.setdefault(label, name) != name:
            raise DataError(
                f"{file} gives the label {label} the names {names[label]!r} and {name!r}: get a fresh copy."
            )
    if sorted(names) != list(range(len(names))):
        raise DataError(f"{file} has labels that are not 0, 1, 2, … without a gap: get a fresh copy.")
    numbers: dict[str, int] = {}
    for label, name in names.items():
        if numbers.setdefault(name, label) != label:
            raise DataError(f"{file} calls both labels {numbers[name]} and {label} {name!r}: rename or merge them.")
    entries = parts[split]
    return Listing(tuple(names[i] for i in range(len(names))), [e[0] for e in entries], [e[1] for e in entries])


def _parse(file: Path) -> dict[str, list[Any]]:
    try:
        parts = parse_json(read_bytes(file))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} can't be read as JSON ({error}): get a fresh copy, from {SPLIT_FILES}.") from error
    if not isinstance(parts, dict) or any(not isinstance(parts.get(s), list) for s in ("train", "val", "test")):
        raise DataError(f"{file} is not a split file: expected the lists train, val and test.")
    for entry in (entry for s in ("train", "val", "test") for entry in parts[s]):
        if not isinstance(entry, list) or [type(part) for part in entry] != [str, int, str]:
            raise DataError(f"{file} has the entry {str(entry)[:60]}: expected [path, label, class name].")
    return {s: parts[s] for s in ("train", "val", "test")}


def read_variant_lists(benchmark: Benchmark, folder: Path, split: str) -> Listing:
    """FGVCAircraft: variants.txt, one class a line, and images_variant_SPLIT.txt with lines "<image> <class>"."""
    classes = _lines(benchmark, folder / "variants.txt")
    number = {name: label for label, name in enumerate(classes)}
    file = folder / f"images_variant_{split}.txt"
    paths, labels = [], []
    for line in _lines(benchmark, file):
        image, _, name = line.partition(" ")
        if name not in number:
            raise DataError(f"{file} has the line {line!r}: expected an image and a class of variants.txt.")
        paths.append(f"{check_inside(image, str(file))}.jpg")
        labels.append(number[name])
    return Listing(tuple(classes), paths, labels)


def _lines(benchmark: Benchmark, file: Path) -> list[str]:
    try:
        return [line.strip() for line in read_text(file).splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(
            f"{file} can't be read, and it lists the images and classes of {benchmark.title}: get it from {benchmark.source}."
        ) from error


def read_class_folders(benchmark: Benchmark, folder: Path, split: str) -> Listing:
    """ImageNet and its variants: a folder per class, named as in ImageNet's table; files in sorted order.

    The published loader takes files in the order of the file system, so its few-shot picks of ImageNet differ from machine
    to machine and can't be reproduced.
    """
    within = f"{'train' if split == 'train' else 'val'}/" if len(benchmark.sizes) == 2 else ""
    start = folder / benchmark.images / within
    names = class_folders(benchmark.members)
    missing = [name for name in names if not (start / name).is_dir()]
    if missing:
        loose = start.is_dir() and any(p.suffix.lower() in ENDINGS for p in start.iterdir())
        sort = ", and the images in it sorted into them" if loose else ""
        raise DataError(
            f"{start} lacks {len(missing)} of the {len(names)} class folders of {benchmark.title} ({some(missing)}): "
            f"expected them all{sort}, from {benchmark.source}."
        )
    paths, labels = [], []
    for label, name in enumerate(names):
        with os.scandir(start / name) as entries:
            files = sorted(e.name for e in entries if Path(e.name).suffix.lower() in ENDINGS and e.name[0] != ".")
        paths += [f"{within}{name}/{file}" for file in files]
        labels += [label] * len(files)
    return Listing(tuple(names.values()), paths, labels)


READERS: dict[str, Callable[[Benchmark, Path, str], Listing]] = {
    "split file": read_split_file,
    "variant lists": read_variant_lists,
    "class folders": read_class_folders,
}
