"""Build the three embedded data sets: icons, kinds-mono and concepts.

    python recipes/embedded_data.py --work /tmp/icons

Machine: one CPU core.  Time: 25 seconds, and 40 for drawings at first.  Result: icons 38 classes, 608 / 299 / 1146
images, 3.0 MB; kinds-mono 599 / 196 / 783, 0.9 MB; concepts 80 classes, 1280 / 80 / 1153, 1.1 MB.

Every drawing comes from sets that pre-training (recipes/pretrain_icons.py) never saw.

- ``icons``: kinds of thing as colour emoji.  A split holds *objects*: no emoji stands on two sides of it, in whatever
  set it is drawn.  Train has 16 images a class, of as many objects as there are (60 % of them, at most 16).
- ``kinds-mono``: the same classes and split of objects, from monochrome sets: the shifted domain.
- ``concepts``: one concept per class (calendar, key, ...), from interface sets like those of pre-training.

Which classes are base and which novel is a shuffle with a fixed seed.
"""

# ruff: noqa: SIM905 (lists of words read better as words)
from __future__ import annotations

import argparse
import csv
import io
import json
import random
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from corpus import (
    COLOUR_EMOJI,
    CONCEPT_SETS,
    EMOJI,
    ICONIFY,
    MONO_EMOJI,
    Icon,
    collections,
    draw,
    fetch,
    icons,
    read_set,
)
from kinds import KINDS, Emoji
from PIL import Image

TEMPLATE = "an icon of a {}."
SHOTS = 16
Row = tuple[str, str, str, int]  # class, split, object, number of the drawing

# Captions of `concepts` left out: brands, and the rarer of two words for one drawing.
NOT_CONCEPTS = set(
    "github facebook twitter linkedin instagram google youtube pinterest paypal android whatsapp apple reddit "
    "cog document comment envelope mobile cart trashcan trash edit close cross users mail chat location house "
    "photo picture people person alert shopping unlock history redo caret email info speaker chart".split()
)


def on_white(rgba: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    alpha = rgba[..., 3:].astype(np.float32) / 255
    return np.round(rgba[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def sides(objects: Iterable[str], rng: random.Random) -> dict[str, str]:
    """Object → split: 60 % of the objects to train (16 at most), 12 % to val (2 to 4), the rest to test."""
    order = sorted(objects)
    rng.shuffle(order)
    train = min(SHOTS, round(0.6 * len(order)))
    val = min(4, max(2, round(0.12 * len(order))))
    return {o: "train" if i < train else "val" if i < train + val else "test" for i, o in enumerate(order)}


def deal(drawings: dict[str, list[int]], count: int, rng: random.Random) -> list[tuple[str, int]]:
    """At most ``count`` drawings, one of each object before a second of any."""
    piles = {o: rng.sample(d, len(d)) for o, d in sorted(drawings.items())}
    order = rng.sample(sorted(piles), len(piles))
    dealt = [(o, piles[o][turn]) for turn in range(99) for o in order if turn < len(piles[o])]
    return dealt[:count]


def rows(
    label: str, drawings: dict[str, list[int]], side: dict[str, str], limits: dict[str, int], seed: str
) -> list[Row]:
    rng = random.Random(seed)
    out: list[Row] = []
    for split, limit in limits.items():
        part = {o: d for o, d in drawings.items() if side[o] == split}
        out += [(label, split, o, i) for o, i in deal(part, limit, rng)]
    return out


def shuffled(classes: Iterable[str], seed: str) -> list[str]:
    order = sorted(classes)
    random.Random(seed).shuffle(order)
    return order


def write(
    path: Path, meta: dict[str, object], table: list[Row], wanted: list[Icon], pixels: npt.NDArray[np.uint8]
) -> None:
    """One zip: meta.json, index.csv and the images as lossless WebP, with fixed dates so that bytes can be compared."""
    text = io.StringIO()
    index = csv.writer(text, lineterminator="\n")
    index.writerow(["path", "class", "split", "object", "source"])
    files: dict[str, bytes] = {}
    for label, split, thing, i in table:
        name = f"images/{len(files):05d}.webp"
        out = io.BytesIO()
        Image.fromarray(on_white(pixels[i])).save(out, "WEBP", lossless=True, method=4)
        files[name] = out.getvalue()
        index.writerow([name, label, split, thing, f"{wanted[i].set}:{wanted[i].name}"])
    head = {"meta.json": json.dumps(meta, indent=1, ensure_ascii=False).encode(), "index.csv": text.getvalue().encode()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (head | files).items():
            info = zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_STORED if name.endswith("webp") else zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    count = Counter(split for _, split, _, _ in table)
    classes = meta["classes"]
    assert isinstance(classes, list)
    print(f"{path.name}: {len(classes)} classes, {dict(count)}, {path.stat().st_size / 1e6:.2f} MB")


def about(name: str, title: str, text: str, classes: list[str], sets: list[str], package: Path) -> dict[str, object]:
    every = collections(package)
    sets = sorted(sets)
    sources = [{"set": s, "name": every[s]["name"], "author": every[s]["author"]["name"]} for s in sets]
    for source in sources:
        source["licence"] = every[source["set"]]["license"]["spdx"]
    licence = "Drawings under their sets' own permissive licences (MIT, Apache-2.0, CC0-1.0, ISC); see NOTICE."
    meta: dict[str, object] = {"name": name, "title": title, "description": text, "template": TEMPLATE}
    return meta | {"classes": classes, "licence": licence, "sources": sources}


def word(icon: Icon, emoji: Emoji) -> str:
    """The name under which to look for an icon's emoji; none for an interface icon whose name means something else."""
    if icon.set in COLOUR_EMOJI or icon.set in MONO_EMOJI:
        return icon.name if icon.set in COLOUR_EMOJI else icon.caption
    return icon.caption if icon.caption in emoji.word else ""


def kinds(package: Path, emoji: Emoji, cache: Path, out: Path) -> None:
    """``icons`` and ``kinds-mono``."""
    found: dict[str, dict[str, dict[str, list[int]]]] = {}  # data set → kind → object → drawings
    drawn: dict[str, tuple[list[Icon], npt.NDArray[np.uint8]]] = {}
    spare: dict[str, dict[str, list[int]]] = {}
    for name, sets in (("icons", COLOUR_EMOJI), ("kinds-mono", MONO_EMOJI + CONCEPT_SETS)):
        pairs = [(icon, what) for icon in icons(package, sets, 99) if (what := emoji.find(word(icon, emoji)))]
        wanted = [icon for icon, _ in pairs]
        pixels = draw(package, wanted, cache / name)
        drawn[name] = wanted, pixels
        table: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        spare = defaultdict(lambda: defaultdict(list))  # in the end those of kinds-mono
        seen: set[tuple[str, str]] = set()
        for i, (icon, (thing, kind)) in enumerate(pairs):
            if pixels[i, ..., 3].any():  # one drawing of an object from each set; further ones are spare
                (spare if (icon.set, thing) in seen else table)[kind][thing].append(i)
                seen.add((icon.set, thing))
        found[name] = table
    colour = found["icons"]
    classes = [k for k in KINDS if len(colour[k]) >= SHOTS and sum(map(len, colour[k].values())) >= 30]
    classes = shuffled(classes, "kinds")
    tables: dict[str, list[Row]] = {name: [] for name in found}
    for kind in classes:
        side = sides(colour[kind], random.Random(f"sides {kind}"))
        for name, table in found.items():
            limits = {"train": SHOTS, "val": 8, "test": 40}
            part = {o: d for o, d in table[kind].items() if o in side}
            if sum(len(d) for o, d in part.items() if side[o] == "train") < SHOTS:
                part = {o: d + (spare[kind][o] if side[o] == "train" else []) for o, d in part.items()}
            tables[name] += rows(kind, part, side, limits, f"{name} {kind}")
    texts = {
        "icons": ("Kinds of thing as colour emoji", COLOUR_EMOJI, "Unicode's kinds of emoji, drawn in colour by five sets "
                  "that pre-training never saw. No emoji stands in two splits."),
        "kinds-mono": ("Kinds of thing in one colour", MONO_EMOJI + CONCEPT_SETS, "The classes and the split of `icons`, "
                       "drawn in black by emoji and interface sets that pre-training never saw."),
    }  # fmt: skip
    for name, (title, sets, text) in texts.items():
        write(out / f"{name}.zip", about(name, title, text, classes, sets, package), tables[name], *drawn[name])


def concepts(package: Path, cache: Path, out: Path) -> None:
    wanted = list(icons(package, CONCEPT_SETS, 2))
    pixels = draw(package, wanted, cache / "concepts")
    table: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for i, icon in enumerate(wanted):
        if pixels[i, ..., 3].any() and not NOT_CONCEPTS & set(icon.caption.split()):
            table[icon.caption][f"{icon.family}/{icon.caption}"].append(i)
    classes = shuffled((c for c, families in table.items() if len(families) >= 20), "concepts")
    every: list[Row] = []
    for label in classes:
        families = sorted(table[label])
        random.Random(f"sides {label}").shuffle(families)
        side = {f: "train" if i < SHOTS else "val" if i < SHOTS + 1 else "test" for i, f in enumerate(families)}
        drawings = {f: d if side[f] == "test" else d[:1] for f, d in table[label].items()}
        every += rows(label, drawings, side, {"train": SHOTS, "val": 8, "test": 20}, f"concepts {label}")
    text = "Concepts of interface icons, drawn by sets that pre-training never saw. No set stands in two splits of a class."
    meta = about("concepts", "Concepts of interface icons", text, classes, sorted(CONCEPT_SETS), package)
    write(out / "concepts.zip", meta, every, wanted, pixels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, default=Path("/tmp/fewclip-icons"), help="packages and drawings are kept here"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "src/fewclip/data/embedded")
    args = parser.parse_args()
    package = fetch(ICONIFY, args.work)
    emoji = Emoji(fetch(EMOJI, args.work), [read_set(package, s) for s in ("noto", "fluent-emoji-flat")])
    kinds(package, emoji, args.work / "drawings", args.out)
    concepts(package, args.work / "drawings", args.out)


if __name__ == "__main__":
    main()
