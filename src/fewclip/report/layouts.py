"""Groups -> tables like the papers'."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from fewclip.bench.presets.rules import HALVES, TRANSFER
from fewclip.report.collect import Entry, Group
from fewclip.report.names import dataset_title
from fewclip.report.scores import Score
from fewclip.report.tables import Line, Table, cell, mark_best, mark_columns

FEWER = "A small fraction after a number, such as 2/3, means that fewer seeds than elsewhere have finished."
PARTIAL = "An average over fewer data sets than others, such as 4/11 sets, is never marked as the best."
KINDS = ("base", "novel", "hm")
"""What is shown of a method that was trained on half of the classes."""
Kind = TypeVar("Kind", str, int)


def averages(group: Group, entry: Entry) -> list[Score | None]:
    """Over the data sets: base, novel and HM; or the source and the average of the targets; or accuracy at the most shots.
    The last of them is the number that methods are compared by."""
    if group.scope.protocol in HALVES:
        return [group.score(entry, kind) for kind in KINDS]
    if group.scope.protocol in TRANSFER:
        return [group.score(entry, "all", datasets=of) for of in ([group.scope.source or ""], group.targets)]
    return [group.score(entry, "all", max(group.shots))]


def tables(group: Group) -> list[Table]:
    """The tables of accuracy of a group."""
    if group.scope.protocol in HALVES:
        return [halves(group)]
    return [transfer(group)] if group.scope.protocol in TRANSFER else [few_shot(group)]


def halves(group: Group) -> Table:
    """Data sets × methods, each with base, novel and their harmonic mean."""
    columns = [(entry, kind) for entry in group.entries for kind in KINDS]
    lines = _by_dataset(group, columns, lambda e, kind, datasets: group.score(e, kind, datasets=datasets))
    return Table(
        group.scope.key("accuracy"),
        "Accuracy on base and novel classes",
        "Data set",
        ("Base", "Novel", "HM") * len(group.entries),
        lines,
        tuple((entry.label, 3) for entry in group.entries),
        (_seeds_note(group), "HM is the harmonic mean of the two means.", *marks(lines)),
    )


def few_shot(group: Group) -> Table:
    """Data sets × shots, each with every method."""
    columns = [(entry, shots) for shots in group.shots for entry in group.entries if _has(group, entry, shots)]
    lines = _by_dataset(group, columns, lambda e, shots, datasets: group.score(e, "all", shots, datasets=datasets))
    return Table(
        group.scope.key("accuracy"),
        "Accuracy by shots",
        "Data set",
        tuple(entry.label for entry, _ in columns),
        lines,
        tuple((shots_title(shots), sum(s == shots for _, s in columns)) for shots in group.shots),
        (_seeds_note(group), *marks(lines)),
    )


def transfer(group: Group) -> Table:
    """Methods × data sets: source, targets, their average."""
    source, targets = group.scope.source or "", group.targets
    lines = []
    for entry in group.entries:
        scores = [group.score(entry, "all", datasets=[dataset]) for dataset in (source, *targets)]
        cells = [cell(score, group.expected(entry)) for score in scores]
        mean = cell(averages(group, entry)[-1], group.expected(entry), len(targets))
        lines.append(Line(entry.label, (*cells, mean)))
    lines = mark_columns(lines)
    return Table(
        group.scope.key("accuracy"),
        f"From {dataset_title(source)} to other data sets",
        "Method",
        (dataset_title(source), *map(dataset_title, targets), "Average"),
        tuple(lines),
        (("Source", 1), ("Targets", len(targets) + 1)),
        (_seeds_note(group), "The average is over the targets.", *marks(lines)),
    )


def calibration(group: Group) -> Table | None:
    """Expected calibration errors: the lower, the better."""
    splits = [s for s in ("base", "novel", "all") if any(slot[2] == s for slot in group.slots)]
    shots = max(group.shots)
    columns = [(entry, split) for split in splits for entry in group.entries]

    def error(entry: Entry, split: str, datasets: Sequence[str]) -> Score | None:
        return group.score(entry, split, shots, "calibration_error", datasets=datasets)

    lines = _by_dataset(group, columns, error, lowest=True)
    if all(c.value is None for line in lines for c in line.cells):
        return None
    titles = {"base": "Base", "novel": "Novel", "all": shots_title(shots) if shots else "All classes"}
    return Table(
        group.scope.key("calibration"),
        "Calibration error",
        "Data set",
        tuple(entry.label for entry, _ in columns),
        lines,
        tuple((titles[s], len(group.entries)) for s in splits),
        (
            "Expected calibration error in percentage points: how far stated probability and accuracy are apart, in 15 "
            "equal bins. Lower is better.",
        ),
    )


def shots_title(shots: int) -> str:
    return "All images" if shots == 0 else f"{shots} shot{'s' * (shots != 1)}"


def marks(lines: Sequence[Line]) -> list[str]:
    """What the marks of incomplete numbers mean, if there are any."""
    cells = [c for line in lines for c in line.cells]
    notes = [FEWER] if any(c.note and not c.partial for c in cells) else []
    return notes + ([PARTIAL] if any(c.partial for c in cells) else [])


def _by_dataset(
    group: Group,
    columns: Sequence[tuple[Entry, Kind]],
    score: Callable[[Entry, Kind, Sequence[str]], Score | None],
    *,
    lowest: bool = False,
) -> tuple[Line, ...]:
    """One line for each data set, then their average. Of the columns of one kind, the best is marked."""
    rows: list[tuple[str, Sequence[str]]] = [(dataset_title(d), [d]) for d in group.datasets]
    if len(group.datasets) > 1:
        rows.append(("Average", group.datasets))
    lines = []
    for title, datasets in rows:
        cells = [cell(score(e, kind, datasets), group.expected(e), len(datasets)) for e, kind in columns]
        for kind in {kind for _, kind in columns}:
            places = [i for i, (_, other) in enumerate(columns) if other == kind]
            for i, marked in zip(places, mark_best([cells[i] for i in places], lowest=lowest), strict=True):
                cells[i] = marked
        lines.append(Line(title, tuple(cells), total=len(datasets) > 1))
    return tuple(lines)


def _has(group: Group, entry: Entry, shots: int) -> bool:
    return any(slot[0] == entry and slot[3] == shots for slot in group.slots)


def _seeds_note(group: Group) -> str:
    count = len(group.seeds)
    named = ", ".join(map(str, group.seeds))
    if count == 1:
        return f"Accuracy in per cent, one seed ({named}). Best in bold."
    return f"Accuracy in per cent: mean ± population standard deviation over {count} seeds ({named}). Best in bold."
