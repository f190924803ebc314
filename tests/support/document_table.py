"""What the blocks of each page find in their folder, and what is put in the place of what would take hours, or isn't there.

This is all that differs between what a reader copies and what the tests run.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pictures import picture
from results import halves, write
from tiny_sets import write_set

from fewclip import FewShotClassifier

KINDS = {"cat": (200, 120, 40), "dog": (60, 60, 90), "bird": (40, 160, 200)}


def photos(folder: Path) -> None:
    """photos/cat, photos/dog, photos/bird with 20 pictures each, new.jpg, a.jpg, b.png."""
    for name, colour in KINDS.items():
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(20):
            picture(colour, i).save(folder / "photos" / name / f"{i}.jpg")
    for number, name in enumerate(("new.jpg", "a.jpg", "b.png")):
        picture(KINDS["cat"], 99 + number).save(folder / name)


def adapter(folder: Path) -> None:
    """my-adapter, of MMRL on cats, dogs and birds."""
    pairs = [(picture(colour, i), name) for name, colour in KINDS.items() for i in range(4)]
    FewShotClassifier("mmrl", shots=None, epochs=1, batch_size=12).fit(pairs).save(folder / "my-adapter")


def shared_adapter(folder: Path) -> None:
    """The same adapter as me/pets, a folder that is read where a hub's name is meant."""
    adapter(folder)
    (folder / "me").mkdir()
    (folder / "my-adapter").rename(folder / "me" / "pets")


def many(folder: Path) -> None:
    """list.txt, images.parquet and two tars in shards/, of some of the photos."""
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    some = sorted((folder / "photos" / "dog").glob("*.jpg"))[:4]
    (folder / "list.txt").write_text("".join(f"{path.relative_to(folder)}\n" for path in some))
    parquet.write_table(arrow.table({"image": [path.read_bytes() for path in some]}), folder / "images.parquet")
    (folder / "shards").mkdir()
    for number in range(2):
        with tarfile.open(folder / "shards" / f"{number:03}.tar", "w") as tar:
            for path in some[number::2]:
                tar.add(path, path.name)


def published(folder: Path) -> None:
    """DATA: a root with tiny copies of three published data sets."""
    for name in ("caltech101", "dtd", "eurosat"):
        write_set(folder / "DATA", name)


def rows(folder: Path) -> None:
    """results/, shots/ and icons/, as `fewclip bench` leaves them."""
    finished = [r for m, base in (("zero-shot", 70.0), ("mmrl", 82.0)) for r in halves(m, "caltech101", 1, base, 75.0)]
    for name in ("results", "shots", "icons"):
        write(folder / name / "rows.jsonl", finished)


@dataclass(frozen=True)
class Page:
    """What is at hand, what is written in place of something else, and what else may end with which status."""

    has: tuple[Callable[[Path], None], ...] = ()
    replace: dict[str, str] = field(default_factory=dict)
    statuses: dict[str, tuple[int, ...]] = field(default_factory=dict)


EVERYWHERE = {
    "openai/clip-vit-base-patch16": "icon-clip",  # 600 MB from the hub
    "openai/clip-vit-base-patch32": "icon-clip",
}
EXTRA = {
    "fit": "--epochs 1 --batch-size 16",  # minutes
    "bench": "--dry-run",  # hours; the rows that follow are those of `rows`
    "demo": "--seeds 1",
}
"""Arguments that are added to a command."""

PARSED = ("push",)
"""Commands whose options are read and no more: they need an account."""

INCOMPLETE: dict[str, tuple[int, ...]] = {"data check": (1,)}  # the published data sets are tiny copies

PAGES = {
    "README.md": Page((photos, rows)),
    "docs/quickstart.md": Page(
        (photos,),
        {
            "python3 -m venv .venv && . .venv/bin/activate": "",  # this environment stands for it
            'FewShotClassifier("mmrl", backbone="icon-clip")': 'FewShotClassifier("mmrl", backbone="icon-clip", shots=1)',
            "fewclip fit icons": "fewclip fit icons --shots 2",
        },
    ),
    "docs/your_images.md": Page((photos, rows)),
    "docs/choosing.md": Page((photos, rows)),
    "docs/reproducing.md": Page((published, rows), statuses=INCOMPLETE),
    "docs/protocols.md": Page((published, rows), statuses=INCOMPLETE),
    "docs/reports.md": Page((rows,), {"more/rows.jsonl": "results/rows.jsonl"}),
    "docs/results/README.md": Page((rows,)),
    "docs/data.md": Page((published,), {"/data": "DATA"}, INCOMPLETE),
    "docs/serving.md": Page((photos, adapter)),
    "docs/export.md": Page((photos, adapter)),
    "docs/sharing.md": Page(
        (photos, shared_adapter),
        {
            "hf auth login": "",  # no account
            "me/pets@v2": "me/pets",
            'push_to_hub("me/pets", license="mit", private=True)': 'save("elsewhere")',
        },
    ),
    "docs/scaling.md": Page(
        (photos, adapter, many),
        {
            "{000..123}": "{000..001}",
            " --processes 4": " --processes 1",
            "/shared/photos": "photos",
            "/shared/labels.parquet": "shared.parquet",
            " --executor ray --gpus-per-process 1": "",  # no cluster
        },
    ),
    "docs/security.md": Page((photos, adapter)),
    "docs/reliability.md": Page((photos, adapter, rows)),
    "docs/api/clip.md": Page((photos,)),
}
