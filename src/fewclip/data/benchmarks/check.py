"""Which of the published data sets are under a root, what is missing, and where to get it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fewclip.data.benchmarks.readers import Listing, find_folder, list_split
from fewclip.data.benchmarks.table import COLLECTION, SPLIT_FILES, Benchmark
from fewclip.data.paths import absent, some
from fewclip.errors import DataError


@dataclass
class Report:
    """One data set. `found` counts the images of each split that exist, `published` those that should."""

    name: str
    state: Literal["absent", "incomplete", "complete"]
    title: str
    folder: str
    published: dict[str, int]
    classes: int
    source: str
    found: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def check(benchmark: Benchmark, root: Path, *, images: bool = False) -> Report:
    """Look at one data set: files, counts against the published sizes, and with `images` whether every image opens."""
    folder = find_folder(benchmark, root)
    source = benchmark.source + (
        f"; {benchmark.split_file} from {SPLIT_FILES}" if benchmark.reader == "split file" else ""
    )
    if benchmark.key != "imagenet" and COLLECTION not in source:
        source += f"; or all from {COLLECTION}"
    published, classes = benchmark.published, benchmark.classes
    report = Report(benchmark.key, "complete", benchmark.title, str(folder), published, classes, source)
    if not folder.is_dir():
        report.state = "absent"
        report.problems.append(f"there is no folder {folder}")
        return report
    place = folder / benchmark.images
    if not place.is_dir():
        report.problems.append(f"there is no folder {place}")
    for split, size in published.items():
        try:
            listing = list_split(benchmark, folder, split)
        except DataError as error:
            if str(error) not in report.problems:
                report.problems.append(str(error))
            continue
        _count(report, listing, split, size, place, images)
    if report.problems:
        report.state = "incomplete"
    return report


def _count(report: Report, listing: Listing, split: str, size: int, place: Path, images: bool) -> None:
    missing = absent(place, listing.paths)
    report.found[split] = len(listing.paths) - len(missing)
    if missing:
        report.problems.append(
            f"{len(missing)} of {len(listing.paths)} {split} images are not in {place}: {some(missing)}"
        )
    if len(listing.paths) != size:
        report.problems.append(f"{split} has {len(listing.paths)} images instead of the published {size}")
    wrong = f"there are {len(listing.classes)} classes instead of the published {report.classes}"
    if len(listing.classes) != report.classes and wrong not in report.problems:
        report.problems.append(wrong)
    if images:
        gone = set(missing)
        bad = unreadable([place / path for path in listing.paths if path not in gone])
        if bad:
            report.problems.append(f"{len(bad)} {split} images can't be read: {some(bad)}")


def unreadable(paths: list[Path]) -> list[str]:
    """The paths of images that can't be decoded to the end."""
    from fewclip.clip.decode import read_image

    def fails(path: Path) -> bool:
        try:
            read_image(path)
        except DataError:
            return True
        return False

    with ThreadPoolExecutor() as pool:
        return [str(path) for path, bad in zip(paths, pool.map(fails, paths), strict=True) if bad]
