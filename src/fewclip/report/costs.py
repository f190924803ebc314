"""What training and prediction cost, per method."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from fewclip.bench.presets import HALVES, TRANSFER
from fewclip.bench.rows import Row
from fewclip.report import published
from fewclip.report.collect import Entry, Group
from fewclip.report.layouts import half_averages, target_average
from fewclip.report.names import is_reference
from fewclip.report.scores import Score, average, number
from fewclip.report.tables import Cell, Line, Table


@dataclass(frozen=True)
class Cost:
    """Means over runs; None where nothing was recorded."""

    parameters: float | None
    train_seconds: float | None
    milliseconds: float | None
    """Of predicting one image."""
    memory_mb: float | None
    gpu_memory_mb: float | None


def cost(group: Group, entry: Entry) -> Cost:
    rows = group.rows(entry)
    runs = list({str(row["run"]): row for row in rows}.values())
    per_image = [
        1000 * seconds / images
        for row in rows
        if (seconds := number(row.get("predict_seconds"))) is not None and (images := number(row.get("images")))
    ]
    return Cost(
        _mean(runs, "parameters"),
        _mean(runs, "train_seconds"),
        statistics.fmean(per_image) if per_image else None,
        _highest(runs, "peak_memory_mb"),
        _highest(runs, "gpu_memory_mb"),
    )


def headline(group: Group, entry: Entry) -> tuple[str, Score | None]:
    """The one number of a method in a group, and its name: HM, average accuracy at the most shots, average of targets."""
    several = len(group.datasets) > 1
    if group.scope.protocol in HALVES:
        return "Average HM" if several else "HM", half_averages(group, entry)[2]
    if group.scope.protocol in TRANSFER:
        return "Average of targets", target_average(group, entry)
    shots = max(group.shots)
    name = "Average accuracy" if several else "Accuracy"
    return f"{name}, {shots or 'all'} shots", average(group.each(entry, "all", shots))


def table(group: Group) -> Table | None:
    """Parameters, seconds and memory, one line per method."""
    names = ["Trained parameters", "Training, s", "Prediction, ms/image", "Peak memory, MB", "GPU memory, MB"]
    costs = [cost(group, entry) for entry in group.entries]
    theirs = [None if e.variant else published.parameters(e.method) for e in group.entries]
    values = [
        (
            Cell(c.parameters, digits=0),
            Cell(c.train_seconds, digits=1),
            Cell(c.milliseconds, digits=2),
            Cell(c.memory_mb, digits=0),
            Cell(c.gpu_memory_mb, digits=0),
            Cell(t, digits=0),
        )
        for c, t in zip(costs, theirs, strict=True)
    ]
    names = [*names, "Published parameters"]
    kept = [i for i in range(len(names)) if any(row[i].value is not None for row in values)]
    if not kept:
        return None
    notes = ["Means over runs; memory is the highest of any."]
    if group.scope.protocol == "few-shot":
        notes.append("Over all shots.")
    if 5 in kept:
        where = "" if is_reference(group.scope.backbone) else f", not {group.scope.backbone}"
        notes.append(f"Published: {published.SOURCES['cost']}, for ViT-B/16{where}.")
    return Table(
        group.scope.key("cost"),
        "Cost",
        "Method",
        tuple(names[i] for i in kept),
        tuple(Line(entry.label, tuple(row[i] for i in kept)) for entry, row in zip(group.entries, values, strict=True)),
        notes=tuple(notes),
    )


def _mean(rows: Sequence[Row], field: str) -> float | None:
    values = [v for row in rows if (v := number(row.get(field))) is not None]
    return statistics.fmean(values) if values else None


def _highest(rows: Sequence[Row], field: str) -> float | None:
    return max((v for row in rows if (v := number(row.get(field))) is not None), default=None)
