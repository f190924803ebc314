"""`fewclip demo`: zero-shot, MMRL and MMRL++ on the embedded drawings, side by side."""

from __future__ import annotations

import json
import platform
import random
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from fewclip.adapters.adapter import Adapter
from fewclip.bench.evaluation import choose, evaluate, harmonic_mean
from fewclip.classifier import DEFAULT_BACKBONE, FewShotClassifier
from fewclip.cli.options import numbers
from fewclip.cli.table import print_table
from fewclip.clip.model import CLIP
from fewclip.data.dataset import Dataset
from fewclip.data.read import read_data
from fewclip.data.sheet import Sample, sheet
from fewclip.errors import DataError
from fewclip.files.markdown import markdown_table
from fewclip.files.write import write_json, write_text
from fewclip.methods import METHODS

SETTINGS: dict[str, dict[str, Any]] = {
    "zero-shot": {},
    "mmrl": {"alpha": 0.3, "reg_weight": 3.0, "lr": 3e-3},
    "mmrlpp": {"lr": 5e-3},
}
"""What differs from the defaults on the embedded drawings, chosen on the val split (docs/icons.md)."""


@dataclass(frozen=True)
class Demo:
    out: Path = Path("demo")
    """Folder for results.json, results.md and predictions.png."""
    seeds: str = "1,2,3"
    """Seeds, separated by commas: each has its own few-shot picks, initial values and order."""
    data: str = "icons"
    """An embedded data set."""
    json: bool = False
    """Print the rows as JSON."""


def demo(arguments: list[str]) -> int:
    """Fit zero-shot CLIP, MMRL and MMRL++ on the base classes of the embedded drawings, 16 images per class, and test them
    on other drawings of these classes and on classes that were never trained on. Takes a few minutes on two cores."""
    options = tyro.cli(Demo, prog="fewclip demo", description=demo.__doc__, args=arguments)
    seeds = numbers("seeds", options.seeds) or (1,)
    started = time.monotonic()
    clip = CLIP.from_pretrained(DEFAULT_BACKBONE)
    train, test = read_data(options.data), read_data(options.data, "test")
    if train.base is None:
        raise DataError(f"{options.data} has no base and novel classes: choose an embedded data set.")
    base = train.only(train.halves()[0])
    print(
        f"{options.data}: {len(base.classes)} base classes with 16 drawings each to train on; "
        f"{len(train.halves()[1])} novel classes that are never trained on.",
        file=sys.stderr,
    )
    rows: list[dict[str, Any]] = []
    fitted: dict[str, Adapter] = {}
    for method in SETTINGS:
        for seed in seeds if METHODS[method] is not METHODS["zero-shot"] else seeds[:1]:
            row, adapter = run(method, seed, clip, base, test, verbose=not options.json)
            rows.append(row)
            fitted.setdefault(method, adapter)
    table = summarise(rows)
    write_json(options.out / "results.json", {"rows": rows, "machine": platform.platform(), "python": sys.version})
    lines = [list(row.values()) for row in table]
    write_text(options.out / "results.md", markdown_table(list(table[0]), lines, right=range(1, len(table[0]))) + "\n")
    picture(fitted, test, base.classes, options.out / "predictions.png")
    if options.json:
        print(json.dumps(rows))
        return 0
    print_table(table, title="Accuracy in % on drawings not trained on; mean ± sd over seeds")
    print(
        f"Took {time.monotonic() - started:.0f} s. Pictures: {options.out / 'predictions.png'}; rows: {options.out / 'results.json'}."
    )
    return 0


def run(
    method: str, seed: int, clip: CLIP, base: Dataset, test: Dataset, *, verbose: bool
) -> tuple[dict[str, Any], Adapter]:
    """One method with one seed: a row of results, and the adapter."""
    adapter = (
        FewShotClassifier(method, clip, shots=16, seed=seed, verbose=verbose, **SETTINGS[method]).fit(base).adapter_
    )
    accuracy = {split: evaluate(adapter, choose(test, base.classes, split)).accuracy for split in ("base", "novel")}
    row = {
        "method": method,
        "data": base.name,
        "seed": seed,
        "base": accuracy["base"],
        "novel": accuracy["novel"],
        "hm": round(harmonic_mean(accuracy["base"], accuracy["novel"]), 2),
        "seconds": round(adapter.training.seconds, 2),
        "parameters": adapter.parameters,
        "settings": SETTINGS[method],
    }
    return row, adapter


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds; HM is that of the mean accuracies, as in the papers."""
    table = []
    for method in SETTINGS:
        of_method = [row for row in rows if row["method"] == method]
        base, novel = (statistics.mean(row[key] for row in of_method) for key in ("base", "novel"))
        spread = [statistics.pstdev(row[key] for row in of_method) for key in ("base", "novel")]
        table.append(
            {
                "method": METHODS[method].title,
                "base": f"{base:.1f}" + (f" ± {spread[0]:.1f}" if len(of_method) > 1 else ""),
                "novel": f"{novel:.1f}" + (f" ± {spread[1]:.1f}" if len(of_method) > 1 else ""),
                "harmonic mean": f"{harmonic_mean(base, novel):.1f}",
                "seconds": f"{statistics.mean(row['seconds'] for row in of_method):.0f}",
                "parameters": f"{of_method[0]['parameters']:,}",
            }
        )
    return table


def picture(fitted: dict[str, Adapter], test: Dataset, base: tuple[str, ...], path: Path) -> None:
    """A sheet of test drawings, base and novel, with each method's prediction."""
    rows = []
    for split, heading in (
        ("base", "Base classes: 16 drawings each were shown"),
        ("novel", "Novel classes: no drawing was shown"),
    ):
        part = choose(test, base, split)
        part = part.take(random.Random(7).sample(range(len(part)), 6))
        guesses = {METHODS[m].title: a.scores(part.images, part.classes).argmax(-1).tolist() for m, a in fitted.items()}
        samples = [
            Sample(
                part.images[i],
                part.classes[part.labels[i]],
                [(m.removesuffix(" CLIP"), part.classes[g[i]]) for m, g in guesses.items()],
            )
            for i in range(len(part))
        ]
        rows.append((heading, samples))
    sheet("fewclip demo", rows, path)
