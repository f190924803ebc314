"""What training and prediction cost, per method."""

from __future__ import annotations

import statistics
from typing import NamedTuple

from fewclip.bench.presets.rules import HALVES, TRANSFER
from fewclip.report import published
from fewclip.report.collect import Entry, Group
from fewclip.report.names import is_reference
from fewclip.report.scores import number
from fewclip.report.tables import Cell, Line, Table, only_columns

COLUMNS = {
    "Trained parameters": 0,
    "Training, s": 1,
    "Prediction, ms/image": 2,
    "Peak memory, MB": 0,
    "GPU memory, MB": 0,
    "Published parameters": 0,
}
"""Heading -> digits after the point: what `Cost` holds, in its order, and what was published."""


class Cost(NamedTuple):
    """Means over runs, and the highest memory of any; None where nothing was recorded."""

    parameters: float | None
    train_seconds: float | None
    milliseconds: float | None
    """Of predicting one image."""
    memory_mb: float | None
    gpu_memory_mb: float | None


def cost(group: Group, entry: Entry) -> Cost:
    rows = group.rows(entry)
    runs = {str(row["run"]): row for row in rows}.values()
    timed = [(number(row.get("predict_seconds")), number(row.get("images"))) for row in rows]

    def recorded(field: str) -> list[float]:
        return [value for row in runs if (value := number(row.get(field))) is not None]

    def mean(values: list[float]) -> float | None:
        return statistics.fmean(values) if values else None

    return Cost(
        mean(recorded("parameters")),
        mean(recorded("train_seconds")),
        mean([1000 * seconds / images for seconds, images in timed if seconds is not None and images]),
        max(recorded("peak_memory_mb"), default=None),
        max(recorded("gpu_memory_mb"), default=None),
    )


def headline(group: Group) -> str:
    """The name of the one number by which methods of a group are compared: the last of `averages`."""
    several = len(group.datasets) > 1
    if group.scope.protocol in HALVES:
        return "Average HM" if several else "HM"
    if group.scope.protocol in TRANSFER:
        return "Average of targets"
    return f"{'Average accuracy' if several else 'Accuracy'}, {max(group.shots) or 'all'} shots"


def table(group: Group) -> Table | None:
    """Parameters, seconds and memory, one line per method."""
    lines = []
    for entry in group.entries:
        values = (*cost(group, entry), None if entry.variant else published.parameters(entry.method))
        cells = (Cell(value, digits=digits) for value, digits in zip(values, COLUMNS.values(), strict=True))
        lines.append(Line(entry.label, tuple(cells)))
    kept = [i for i in range(len(COLUMNS)) if any(line.cells[i].value is not None for line in lines)]
    if not kept:
        return None
    notes = ["Means over runs; memory is the highest of any."]
    if group.scope.protocol == "few-shot":
        notes.append("Over all shots.")
    if len(COLUMNS) - 1 in kept:
        where = "" if is_reference(group.scope.backbone) else f", not {group.scope.backbone}"
        notes.append(f"Published: {published.COST_SOURCE}, for ViT-B/16{where}.")
    return Table(
        group.scope.key("cost"),
        "Cost",
        "Method",
        tuple(list(COLUMNS)[i] for i in kept),
        only_columns(lines, kept),
        notes=tuple(notes),
    )
