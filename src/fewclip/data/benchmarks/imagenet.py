"""ImageNet's 1000 classes: folder, the name that CLIP's authors gave, and membership of ImageNet-A and -R.

The table's data is that of CLIP's notebook and of the two sets' folders. Two names occur twice (missile: 657 and 744,
sunglasses: 836 and 837). A classnames.txt on disk is not read: some of them carry other names ("cock" for "rooster").
"""

from __future__ import annotations

import csv
from functools import lru_cache
from pathlib import Path

TABLE = Path(__file__).with_name("imagenet_classes.csv")


@lru_cache(maxsize=4)
def class_folders(members: str) -> dict[str, str]:
    """Folder -> class name in label order. `members`: all, A, R, or numbers for folders called 0 to 999."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if members == "numbers":
        return {row["label"]: row["clip_name"] for row in rows}
    if members != "all":
        rows = [row for row in rows if row[f"in_imagenet_{members.lower()}"] == "1"]
    return {row["folder"]: row["clip_name"] for row in rows}
