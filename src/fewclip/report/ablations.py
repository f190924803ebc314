"""Ablations: one line per variant, the published numbers beside it."""

from __future__ import annotations

from fewclip.bench.presets.rules import HALVES
from fewclip.report import published
from fewclip.report.collect import Entry, Group
from fewclip.report.layouts import averages, marks
from fewclip.report.names import dataset_title, is_reference, method_title, protocol_title
from fewclip.report.tables import Cell, Line, Table, cell, mark_columns

TITLES = {
    "variants": "Without one part",
    "rep-dim": "Dimension of the representation space",
    "layer": "First layer with tokens",
    "tokens": "Number of tokens",
    "alpha": "Weight α of the class feature",
    "lambda": "Weight λ of the regulariser",
    "regulariser": "Kind of regulariser",
}
ALL = 11
"""Data sets that the published ablations average over."""


def tables(group: Group) -> list[Table]:
    """One table per method of an ablation."""
    return [_table(group, method) for method in dict.fromkeys(e.method for e in group.entries)]


def title(ablation: str) -> str:
    return TITLES.get(ablation, ablation)


def _table(group: Group, method: str) -> Table:
    ablation, halves = group.scope.ablation or "", group.scope.protocol in HALVES
    entries = _in_order([e for e in group.entries if e.method == method])
    columns = ("Base", "Novel", "HM") if halves else ("Accuracy",)
    sets, seeds = len(group.datasets), len(group.seeds)
    scores = [averages(group, e)[-len(columns) :] for e in entries]
    cells = [tuple(cell(score, seeds, sets) for score in of_entry) for of_entry in scores]
    lines = mark_columns([Line(_label(e), of_entry) for e, of_entry in zip(entries, cells, strict=True)])
    comparable = method == "mmrl" and group.scope.protocol == "base-to-novel"
    theirs = [published.of_ablation(ablation, e.variant, group.datasets) for e in entries] if comparable else []
    kept = [i for i in range(3) if any(row[i] is not None for row in theirs)]
    if kept:
        lines = [
            Line(line.label, (*line.cells, *(Cell(row[i]) for i in kept)))
            for line, row in zip(lines, theirs, strict=True)
        ]
    datasets = ", ".join(map(dataset_title, group.datasets[:3])) + (", …" if sets > 3 else "")
    notes = [
        f"{protocol_title(group.scope.protocol)}, {'average over ' if sets > 1 else ''}{sets} data set{'s' * (sets != 1)} "
        f"({datasets}); {seeds} seed{'s' * (seeds != 1)}. Best of ours in bold.",
        *marks(lines),
    ]
    if kept:
        over = "by data set" if ablation == "lambda" else f"averages over {ALL} data sets"
        same = (sets == ALL or ablation == "lambda") and is_reference(group.scope.backbone)
        notes.append(
            f"Published: {published.PAPER}, {over}, ViT-B/16" + ("." if same else ": not comparable with ours.")
        )
    return Table(
        group.scope.key(method),
        f"{title(ablation)}: {method_title(method)}",
        "Variant",
        (*columns, *(columns[i] for i in kept)),
        tuple(lines),
        (("Ours", len(columns)), ("Published", len(kept))) if kept else (),
        tuple(notes),
    )


def _label(entry: Entry) -> str:
    return ", ".join(text for text in (entry.variant or "as usual", entry.detail) if text)


def _in_order(entries: list[Entry]) -> list[Entry]:
    """Numbers by size; names in the order of the published table, the full method last."""
    names = ("w/o l", "w/o v", "w/o ds1", "w/o ds2", "w/o rs", "mmrl-dagger", "full", "")

    def place(entry: Entry) -> tuple[int, float, str]:
        try:
            return 0, float(entry.variant), ""
        except ValueError:
            low = entry.variant.lower()
            return (1, names.index(low), "") if low in names else (0, 0.0, low)

    return sorted(entries, key=place)
