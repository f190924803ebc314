"""A folder per class."""

from __future__ import annotations

import os
from pathlib import Path

from fewclip.data.dataset import Dataset
from fewclip.errors import DataError
from fewclip.files.read import exists

ENDINGS = frozenset(
    [".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jfif", ".avif"]
)
SPLITS = {"train": ("train", "training"), "val": ("val", "validation", "valid"), "test": ("test", "testing")}
SPLIT_OF = {word: split for split, words in SPLITS.items() for word in words}


def read_folder(root: str | Path, split: str = "train") -> Dataset:
    """Images of `root`/CLASS/…, or of `root`/SPLIT/CLASS/… where `root` holds such folders.

    Class names are the folders' names with blanks for underscores, in sorted order; images are sorted by path and may be in
    subfolders. A folder without split folders is the same for every split.

    Raises:
        DataError: no such folder, or nothing usable in it.
    """
    root = Path(root)
    if not os.path.isdir(root):
        problem = f"{root} is a file" if exists(root) else f"There is no folder {root}"
        raise DataError(f"{problem}: give a folder that holds one folder of images per class.")
    start = _split_folder(root, split)
    by_class = {}
    for folder in sorted(p for p in start.iterdir() if p.is_dir() and not p.name.startswith(".")):
        files = list_images(folder)
        if files:
            by_class[folder.name] = files
    if not by_class:
        loose = sum(1 for p in start.iterdir() if p.suffix.lower() in ENDINGS)
        found = f"{loose} images are directly in it" if loose else "it holds no folder with images"
        raise DataError(
            f"{start} has no classes: {found}. Expected one folder of images per class, such as {start}/cat/1.jpg."
        )
    names = [name.replace("_", " ").strip() for name in by_class]
    last = dict(zip(names, by_class, strict=True))
    for name, one in zip(names, by_class, strict=True):
        if last[name] != one:
            raise DataError(
                f"The folders {one!r} and {last[name]!r} of {start} both stand for the class {name!r}: merge them, or "
                "rename one."
            )
    images = [p for files in by_class.values() for p in files]
    labels = [label for label, files in enumerate(by_class.values()) for _ in files]
    keys = [p.relative_to(root).as_posix() for p in images]
    return Dataset(root.resolve().name, tuple(names), images, labels, keys)


def list_images(folder: Path) -> list[Path]:
    """All image files under a folder, sorted by path; hidden ones are left out, links to folders not followed."""
    images: list[Path] = []
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        images += [Path(where, f) for f in files if not f.startswith(".") and Path(f).suffix.lower() in ENDINGS]
    return sorted(images)


def _split_folder(root: Path, split: str) -> Path:
    present = {p.name.lower(): p for p in root.iterdir() if p.is_dir()}
    if not present.keys() & set(SPLITS["train"]) or not present.keys() <= SPLIT_OF.keys():
        return root
    for name in SPLITS[split]:
        if name in present:
            return present[name]
    raise DataError(f"{root} has the splits {', '.join(sorted(present))}, but no folder for the split {split!r}.")
