"""The papers' numbers, shipped as tables (published/README.md), beside ours."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from fewclip.bench.evaluation import harmonic_mean
from fewclip.bench.run import dataset_key
from fewclip.report.collect import Entry, Group
from fewclip.report.layouts import shots_title
from fewclip.report.names import PUBLISHED_AS, dataset_title, is_reference
from fewclip.report.scores import Score
from fewclip.report.tables import Cell, Line, Table, only_columns

FOLDER = Path(__file__).parent / "published"
PAPER = "Guo and Gu, MMRL, CVPR 2025"
SOURCES = {
    "base-to-novel": f"Table 1 of {PAPER}",
    "few-shot": f"Tables 10 and 11 of {PAPER}",
    "cross-dataset": f"Table 2 of {PAPER}",
    "domain-generalization": f"Table 3 of {PAPER}",
}
"""By protocol; the file of each has its name."""
COST_SOURCE = f"Table 6 of {PAPER}"
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
    if protocol not in SOURCES:
        return None
    for row in read(protocol.replace("-", "_")):
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
        kinds = [(shots_title(s), "accuracy", s) for s in group.shots if s]
    elif group.scope.shots not in (SHOTS, None) or group.scope.source not in (None, "imagenet"):
        return None
    elif protocol == "base-to-novel":
        kinds = [("Base", "base", 0), ("Novel", "novel", 0), ("HM", "hm", 0)]
    else:
        kinds = [("Accuracy", "accuracy", 0)]
    # One line for each data set that both have a number of, then their average, method by method.
    lines = []
    for entry in group.entries:
        if entry.variant:
            continue
        fixed = group.expected(entry) == 0
        compared = []
        for dataset in group.datasets:
            pairs = [
                (_ours(group, entry, [dataset], c, s), lookup(protocol, entry.method, dataset, c, s))
                for _, c, s in kinds
            ]
            if any(ours and theirs for ours, theirs in pairs):
                compared.append(dataset)
                lines.append(Line(dataset_title(dataset), _triples(pairs, fixed), entry.label))
        targets = [d for d in compared if d != group.scope.source]
        if len(targets) > 1:
            pairs = [_averages(group, entry, targets, c, s) for _, c, s in kinds]
            lines.append(Line(f"Average of these {len(targets)}", _triples(pairs, fixed), entry.label, total=True))
    # A kind that was published for no method, such as 2 shots, is left out.
    kept = [i for i in range(len(kinds)) if any(line.cells[3 * i + 1].value is not None for line in lines)]
    if not kept:
        return None
    notes = [f"Published: {SOURCES[protocol]}, with OpenAI's ViT-B/16. Difference: ours − published."]
    if not is_reference(group.scope.backbone):
        notes.append(f"Ours are with {group.scope.backbone}, so the two are not comparable.")
    return Table(
        group.scope.key("published"),
        "Beside the published numbers",
        "Data set",
        ("Ours", "Published", "Difference") * len(kept),
        only_columns(lines, [3 * i + place for i in kept for place in range(3)]),
        tuple((kinds[i][0], 3) for i in kept),
        tuple(notes),
        "Method",
    )


def _triples(pairs: Sequence[tuple[Score | None, float | None]], fixed: bool) -> tuple[Cell, ...]:
    """Ours, theirs and the difference of each pair: that of the rounded numbers, as a reader would compute it. Without
    deviations where no seed changes anything."""
    cells = []
    for ours, theirs in pairs:
        difference = None if ours is None or theirs is None else round(ours.mean, 2) - theirs
        first = Cell() if ours is None else Cell(ours.mean, None if fixed else ours.sd)
        cells += [first, Cell(theirs), Cell(difference, signed=difference is not None)]
    return tuple(cells)


def _ours(group: Group, entry: Entry, datasets: Sequence[str], column: str, shots: int) -> Score | None:
    return group.score(entry, "all" if column == "accuracy" else column, shots, datasets=datasets)


def _averages(
    group: Group, entry: Entry, datasets: Sequence[str], column: str, shots: int
) -> tuple[Score | None, float | None]:
    """Ours and theirs, computed alike, if both have all of these data sets."""
    protocol = group.scope.protocol

    def published(column: str) -> float | None:
        theirs = [lookup(protocol, entry.method, d, column, shots) for d in datasets]
        known = [value for value in theirs if value is not None]
        return sum(known) / len(known) if len(known) == len(datasets) else None

    if column == "hm":
        base, novel = published("base"), published("novel")
        theirs = None if base is None or novel is None else harmonic_mean(base, novel)
    else:
        theirs = published(column)
    ours = _ours(group, entry, datasets, column, shots)
    whole = ours is not None and theirs is not None and ours.datasets == len(datasets)
    return (ours, theirs) if whole else (None, None)


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
