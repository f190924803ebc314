"""The data sets that come with fewclip: drawings, small, permissively licensed (docs/icons.md, NOTICE)."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any

from fewclip.data.dataset import Dataset

FOLDER = Path(__file__).parent / "embedded"
EMBEDDED = ("icons", "concepts", "kinds-mono")


def describe(name: str) -> dict[str, Any]:
    """The content of a data set's meta.json: title, description, template, classes, licences."""
    with zipfile.ZipFile(FOLDER / f"{name}.zip") as archive:
        meta: dict[str, Any] = json.loads(archive.read("meta.json"))
    return meta


@lru_cache(maxsize=8)
def read_embedded(name: str, split: str) -> Dataset:
    """One split (train, val or test) of an embedded data set. Images are kept as the bytes of their files."""
    meta = describe(name)
    with zipfile.ZipFile(FOLDER / f"{name}.zip") as archive:
        rows = [row for row in csv.DictReader(io.StringIO(archive.read("index.csv").decode())) if row["split"] == split]
        images = [archive.read(row["path"]) for row in rows]
    classes = tuple(meta["classes"])
    number = {c: i for i, c in enumerate(classes)}
    return Dataset(
        name,
        classes,
        images,
        [number[row["class"]] for row in rows],
        [row["path"] for row in rows],
        template=meta["template"],
        base=(len(classes) + 1) // 2,
    )
