"""The papers' numbers, shipped as tables (published/README.md), beside ours."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from fewclip.bench.evaluation import harmonic_mean
from fewclip.report.collect import Entry, Group
from fewclip.report.layouts import shots_title
from fewclip.report.names import PUBLISHED_AS, dataset_key, dataset_title, is_reference
from fewclip.report.scores import Score, average, average_harmonic, harmonic, over_seeds
from fewclip.report.tables import Cell, Line, Table

FOLDER = Path(__file__).parent / "published"
PAPER = "Guo and Gu, MMRL, CVPR 2025"
SOURCES = {
    "base-to-novel": f"Table 1 of {PAPER}",
    "few-shot": f"Tables 10 and 11 of {PAPER}",
    "cross-dataset": f"Table 2 of {PAPER}",
    "domain-generalization": f"Table 3 of {PAPER}",
    "cost": f"Table 6 of {PAPER}",
}
FILES = {
    "base-to-novel": "base_to_novel",
    "few-shot": "few_shot",
    "cross-dataset": "cross_dataset",
    "domain-generalization": "domain_generalization",
}
SHOTS = 16


@cache
def read(name: str) -> tuple[dict[str, str], ...]:
    """The rows of a published table, with our names of methods and data sets added as `our_method`, `our_dataset`."""
    with (FOLDER / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        rows = [dict(row) for row in csv.DictReader(file)]
    for row in rows:
        row["our_method"] = PUBLISHED_AS.get(row.get("method", ""), "")
        row["our_dataset"] = dataset_key(row.get("dataset", ""))
    return tuple(rows)


def lookup(protocol: str, method: str, dataset: str, column: str, shots: int = 0) -> float | None:
    """A published number, by this package's names of the method and the data set; None if there is none."""
    if protocol not in FILES:
        return None
    for row in read(FILES[protocol]):
        if (row["our_method"], row["our_dataset"]) == (method, dataset) and int(row.get("shots", shots)) == shots:
            return float(row[column])
    return None


def parameters(method: str) -> float | None:
    """Trained parameters as published, on ViT-B/16."""
    for row in read("cost"):
        if row["our_method"] == method:
            return float(row["params_millions"]) * 1e6
    return None


def comparison(group: Group) -> Table | None:
    """Ours, published, and ours minus published, wherever a published table has the method and the data set."""
    protocol = group.scope.protocol
    if protocol == "few-shot":
        kinds: list[tuple[str, str, int]] = [(shots_title(s), "accuracy", s) for s in group.shots if s]
    elif group.scope.shots not in (SHOTS, None) or (group.scope.source not in (None, "imagenet")):
        return None
    elif protocol == "base-to-novel":
        kinds = [("Base", "base", 0), ("Novel", "novel", 0), ("HM", "hm", 0)]
    else:
        kinds = [("Accuracy", "accuracy", 0)]
    lines = []
    for entry in group.entries:
        if entry.variant:
            continue
        fixed = group.expected(entry) == 0
        sets = [d for d in group.datasets if any(lookup(protocol, entry.method, d, c, s) for _, c, s in kinds)]
        kept_sets = []
        for dataset in sets:
            pairs = [
                (_ours(group, entry, dataset, c, s), lookup(protocol, entry.method, dataset, c, s)) for _, c, s in kinds
            ]
            if any(ours and theirs for ours, theirs in pairs):
                kept_sets.append(dataset)
                lines.append(Line(dataset_title(dataset), _triples(pairs, fixed), entry.label))
        targets = [d for d in kept_sets if d != group.scope.source]
        if len(targets) > 1:
            pairs = [_averages(group, entry, targets, c, s) for _, c, s in kinds]
            lines.append(Line(f"Average of these {len(targets)}", _triples(pairs, fixed), entry.label, total=True))
    kept = [i for i in range(len(kinds)) if any(line.cells[3 * i + 1].value is not None for line in lines)]
    if not kept:
        return None
    kinds = [kinds[i] for i in kept]
    lines = [replace(line, cells=tuple(c for i in kept for c in line.cells[3 * i : 3 * i + 3])) for line in lines]
    notes = [f"Published: {SOURCES[protocol]}, with OpenAI's ViT-B/16. Difference: ours − published."]
    if not is_reference(group.scope.backbone):
        notes.append(f"Ours are with {group.scope.backbone}, so the two are not comparable.")
    return Table(
        group.scope.key("published"),
        "Beside the published numbers",
        "Data set",
        ("Ours", "Published", "Difference") * len(kinds),
        tuple(lines),
        tuple((title, 3) for title, _, _ in kinds),
        tuple(notes),
        "Method",
    )


def difference(ours: Score | None, theirs: float | None) -> tuple[Cell, Cell, Cell]:
    """Three cells. The difference is that of the rounded numbers, as a reader would compute it."""
    first = Cell(None if ours is None else ours.mean, None if ours is None else ours.sd)
    if ours is None or theirs is None:
        return first, Cell(theirs), Cell()
    return first, Cell(theirs), Cell(round(ours.mean, 2) - theirs, signed=True)


def _triples(pairs: Sequence[tuple[Score | None, float | None]], fixed: bool) -> tuple[Cell, ...]:
    """Three cells a pair; without deviations where no seed changes anything."""
    cells = [c for ours, theirs in pairs for c in difference(ours, theirs)]
    return tuple(replace(c, sd=None) if fixed else c for c in cells)


def _ours(group: Group, entry: Entry, dataset: str, column: str, shots: int) -> Score | None:
    if column == "hm":
        return harmonic(group.values(entry, dataset, "base"), group.values(entry, dataset, "novel"))
    return over_seeds(group.values(entry, dataset, "all" if column == "accuracy" else column, shots))


def _averages(
    group: Group, entry: Entry, datasets: Sequence[str], column: str, shots: int
) -> tuple[Score | None, float | None]:
    """Over the data sets that both have, computed alike."""
    protocol = group.scope.protocol

    def both(column: str) -> tuple[Score | None, list[dict[int, float]], float | None]:
        split = "all" if column == "accuracy" else column
        values = [group.values(entry, d, split, shots) for d in datasets]
        theirs = [lookup(protocol, entry.method, d, column, shots) for d in datasets]
        kept = [(v, t) for v, t in zip(values, theirs, strict=True) if v and t is not None]
        if len(kept) < len(datasets):
            return None, [], None
        return average(values), values, sum(t for _, t in kept) / len(kept)

    if column != "hm":
        ours, _, theirs = both(column)
        return ours, theirs
    (_, bases, base), (_, novels, novel) = both("base"), both("novel")
    if base is None or novel is None:
        return None, None
    return average_harmonic(bases, novels), harmonic_mean(base, novel)


def of_ablation(ablation: str, variant: str, datasets: Sequence[str]) -> tuple[float | None, ...]:
    """Published base, novel and HM of a variant of MMRL: means over the 11 data sets, except λ, which is by data set."""
    columns = {
        "variants": ("ablation_variants", "variant"),
        "rep-dim": ("ablation_rep_dim", "rep_dim"),
        "alpha": ("ablation_alpha", "alpha"),
        "lambda": ("ablation_lambda", "lambda"),
        "regulariser": ("ablation_regularizer", "regularizer"),
    }
    if ablation not in columns:
        return (None, None, None)
    name, column = columns[ablation]
    rows = [row for row in read(name) if _same(row[column], variant)]
    if ablation == "lambda":
        rows = [row for row in rows if len(datasets) == 1 and row["our_dataset"] == datasets[0]]
        rows.sort(key=lambda row: row["source"] != "table8")  # table 5 repeats ImageNet, once with a misprint
        first = {k: next((row[k] for row in rows if row[k]), "") for k in ("base", "novel", "hm")}
        rows = [first] if rows else []
    return tuple(float(v) if (v := rows[0][k]) else None for k in ("base", "novel", "hm")) if rows else (None,) * 3


def _same(published: str, ours: str) -> bool:
    try:
        return float(published) == float(re.sub(r"^.*[= ]", "", ours))
    except ValueError:
        names = {"full": "mmrl", "": "mmrl", "mmrl†": "mmrl-dagger"}
        return names.get(ours.lower(), ours.lower()) == published.lower()
