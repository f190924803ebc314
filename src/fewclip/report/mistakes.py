"""Which classes are taken for which, and sheets of right and wrong predictions."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from fewclip.bench.run import read
from fewclip.data.benchmarks.table import named
from fewclip.data.embedded import EMBEDDED
from fewclip.errors import FewclipError
from fewclip.report.collect import Entry, Group
from fewclip.report.names import dataset_title
from fewclip.report.scores import number
from fewclip.report.tables import EMPTY, Cell, Line, Table

PAIRS, WRONG, RIGHT = 10, 12, 6
SIDE, QUALITY = 144, 78
Thumbnail = Callable[[str, str], str | None]
"""Data set and key -> a data URI, or None."""


@dataclass(frozen=True)
class Guess:
    method: str
    name: str
    probability: float | None
    right: bool


@dataclass(frozen=True)
class Picture:
    """One test image, what it shows, and what methods took it for."""

    key: str
    truth: str
    guesses: tuple[Guess, ...]
    thumbnail: str | None = None

    @property
    def differs(self) -> bool:
        return len({guess.name for guess in self.guesses}) > 1


@dataclass(frozen=True)
class Sheet:
    """Pictures of one data set, each part under its title."""

    seed: int
    parts: tuple[tuple[str, tuple[Picture, ...]], ...]

    @property
    def illustrated(self) -> bool:
        return any(p.thumbnail for _, pictures in self.parts for p in pictures)


def confusions(group: Group, dataset: str) -> Table | None:
    """The most frequent mistakes: true class, predicted class, images per seed, by method."""
    shots = max(group.shots)
    counts: dict[tuple[str, str], dict[Entry, float]] = defaultdict(dict)
    for (entry, tested_on, _, slot_shots), rows in group.slots.items():
        if tested_on != dataset or slot_shots != shots:
            continue
        for row in rows.values():
            for pair in row.get("confusions") or []:
                truth, guess, images = pair
                of = counts[(str(truth), str(guess))]
                of[entry] = of.get(entry, 0.0) + float(images) / len(rows)
    entries = [e for e in group.entries if any(e in of for of in counts.values())]
    ranked = sorted(counts.items(), key=lambda item: (-max(item[1].values()), item[0]))[:PAIRS]
    if not ranked:
        return None
    lines = [
        Line(truth, (Cell(text=guess), *(Cell(of[e], digits=1) if e in of else EMPTY for e in entries)))
        for (truth, guess), of in ranked
    ]
    return Table(
        group.scope.key(f"{dataset}-confusions"),
        f"Most frequent mistakes: {dataset_title(dataset)}",
        "Shown",
        ("Taken for", *(e.label for e in entries)),
        tuple(lines),
        notes=("Images per seed. A dash: not among the method's most frequent mistakes.",),
        text_columns=(0,),
    )


def sheet(group: Group, dataset: str, thumbnail: Thumbnail) -> Sheet | None:
    """Examples of the first seed that has any: those on which methods differ first, then wrong ones, then right ones."""
    seed, known = _examples(group, dataset)
    if not known:
        return None
    # Images that tell methods apart say most; of the others, those first that the most methods have an answer for.
    pictures = [Picture(key, truth, tuple(guesses)) for (key, truth), guesses in known.items()]
    alike = sorted((p for p in pictures if not p.differs), key=lambda p: -len(p.guesses))
    chosen = {
        "Where methods differ": [p for p in pictures if p.differs][:WRONG],
        "Wrong": _in_turn([p for p in alike if not p.guesses[0].right], WRONG),
        "Right": _in_turn([p for p in alike if p.guesses[0].right], RIGHT),
    }
    parts = (
        (title, tuple(replace(p, thumbnail=thumbnail(dataset, p.key)) for p in part)) for title, part in chosen.items()
    )
    return Sheet(seed, tuple((title, part) for title, part in parts if part))


def _examples(group: Group, dataset: str) -> tuple[int, dict[tuple[str, str], list[Guess]]]:
    shots = max(group.shots)
    for seed in group.seeds:
        known: dict[tuple[str, str], list[Guess]] = defaultdict(list)
        for entry in group.entries:
            for split in ("base", "novel", "all"):
                row = group.slots.get((entry, dataset, split, shots), {}).get(seed, {})
                for example in row.get("examples") or []:
                    truth, name = str(example["truth"]), str(example["guess"])
                    guess = Guess(entry.label, name, number(example.get("probability")), truth == name)
                    guesses = known[(str(example["key"]), truth)]
                    if all(other.method != guess.method for other in guesses):
                        guesses.append(guess)
        if known:
            return seed, known
    return 0, {}


def _in_turn(pictures: list[Picture], most: int) -> list[Picture]:
    """Up to `most` pictures, taken from the groups of methods in turn."""
    by_method: dict[tuple[str, ...], list[Picture]] = defaultdict(list)
    for picture in pictures:
        by_method[tuple(g.method for g in picture.guesses)].append(picture)
    chosen: list[Picture] = []
    while any(by_method.values()) and len(chosen) < most:
        chosen += [group.pop(0) for group in by_method.values() if group]
    return chosen[:most]


def thumbnails(root: Path | None) -> Thumbnail:
    """Reads thumbnails of test images where the data is present: published and embedded sets, and folders below `root`.
    Untrusted rows can name any folder, and pages are made to be shared."""

    @cache
    def images(dataset: str) -> tuple[Sequence[Any], Mapping[str, int]]:
        """All test images, and the place of each by its key."""
        try:
            below = root is not None and Path(root, dataset).resolve().is_relative_to(root.resolve())
            if below or dataset in EMBEDDED or named(dataset):
                part = read(dataset, "test", None if root is None else str(root))
                return part.images, {key: place for place, key in enumerate(part.keys)}
        except (FewclipError, OSError, ValueError):
            pass
        return (), {}

    def thumbnail(dataset: str, key: str) -> str | None:
        part, places = images(dataset)
        try:
            return _data_uri(part[places[key]]) if key in places else None
        except (FewclipError, OSError):
            return None

    return thumbnail


def _data_uri(image: Any) -> str:
    from fewclip.clip.preprocess import read_image

    picture = read_image(image)
    picture.thumbnail((SIDE, SIDE))
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
