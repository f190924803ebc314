"""Groups -> tables like the papers'."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fewclip.bench.presets import HALVES, TRANSFER
from fewclip.report.collect import Entry, Group
from fewclip.report.names import dataset_title
from fewclip.report.scores import Score, average, average_harmonic, harmonic, over_seeds
from fewclip.report.tables import Cell, Line, Table, cell, mark_best, mark_columns

FEWER = "A small fraction after a number, such as 2/3, means that fewer seeds than elsewhere have finished."
PARTIAL = "An average over fewer data sets than others, such as 4/11 sets, is never marked as the best."


def tables(group: Group) -> list[Table]:
    """The tables of accuracy of a group."""
    if group.scope.ablation is not None:
        return []
    if group.scope.protocol in HALVES:
        return [halves(group)]
    return [transfer(group)] if group.scope.protocol in TRANSFER else [few_shot(group)]


def halves(group: Group) -> Table:
    """Data sets × methods, each with base, novel and their harmonic mean."""
    lines = []
    for dataset in group.datasets:
        scores = []
        for entry in group.entries:
            base, novel = (group.values(entry, dataset, split) for split in ("base", "novel"))
            scores.append([over_seeds(base), over_seeds(novel), harmonic(base, novel)])
        lines.append(Line(dataset_title(dataset), _best_by_kind(group, scores)))
    if len(group.datasets) > 1:
        scores = [half_averages(group, entry) for entry in group.entries]
        most = len(group.datasets)
        lines.append(Line("Average", _best_by_kind(group, scores, most), total=True))
    return Table(
        group.scope.key("accuracy"),
        "Accuracy on base and novel classes",
        "Data set",
        ("Base", "Novel", "HM") * len(group.entries),
        tuple(lines),
        tuple((entry.label, 3) for entry in group.entries),
        (_seeds_note(group), "HM is the harmonic mean of the two means.", *_marks(lines)),
    )


def half_averages(group: Group, entry: Entry, measure: str = "accuracy") -> list[Score | None]:
    """Average base and novel, and the harmonic mean of these averages."""
    base, novel = (group.each(entry, split, measure=measure) for split in ("base", "novel"))
    return [average(base), average(novel), average_harmonic(base, novel)]


def few_shot(group: Group) -> Table:
    """Data sets × shots, each with every method."""
    columns = [(shots, entry) for shots in group.shots for entry in group.entries if _has(group, entry, shots)]
    spans = [(shots, sum(s == shots for s, _ in columns)) for shots in group.shots]

    def line(label: str, score: Callable[[int, Entry], Score | None], sets: int = 0, total: bool = False) -> Line:
        cells: list[Cell] = []
        for shots, _ in spans:
            entries = [entry for s, entry in columns if s == shots]
            cells += mark_best([cell(score(shots, e), group.expected(e), sets) for e in entries])
        return Line(label, tuple(cells), total=total)

    lines = [
        line(dataset_title(d), lambda s, e, d=d: over_seeds(group.values(e, d, "all", s)))  # type: ignore[misc]
        for d in group.datasets
    ]
    if len(group.datasets) > 1:
        sets = len(group.datasets)
        lines.append(line("Average", lambda s, e: average(group.each(e, "all", s)), sets, total=True))
    return Table(
        group.scope.key("accuracy"),
        "Accuracy by shots",
        "Data set",
        tuple(entry.label for _, entry in columns),
        tuple(lines),
        tuple((shots_title(shots), span) for shots, span in spans),
        (_seeds_note(group), *_marks(lines)),
    )


def transfer(group: Group) -> Table:
    """Methods × data sets: source, targets, their average."""
    source = group.scope.source or ""
    targets = [d for d in group.datasets if d != source]
    lines = []
    for entry in group.entries:
        scores = [over_seeds(group.values(entry, dataset, "all")) for dataset in (source, *targets)]
        mean = target_average(group, entry)
        cells = [cell(score, group.expected(entry)) for score in scores]
        lines.append(Line(entry.label, (*cells, cell(mean, group.expected(entry), len(targets)))))
    lines = mark_columns(lines)
    return Table(
        group.scope.key("accuracy"),
        f"From {dataset_title(source)} to other data sets",
        "Method",
        (dataset_title(source), *map(dataset_title, targets), "Average"),
        tuple(lines),
        (("Source", 1), ("Targets", len(targets) + 1)),
        (_seeds_note(group), "The average is over the targets.", *_marks(lines)),
    )


def target_average(group: Group, entry: Entry) -> Score | None:
    return average([group.values(entry, d, "all") for d in group.datasets if d != group.scope.source])


def calibration(group: Group) -> Table | None:
    """Expected calibration errors: the lower, the better."""
    splits = [s for s in ("base", "novel", "all") if any(slot[2] == s for slot in group.slots)]
    shots = max(group.shots)
    columns = [(split, entry) for split in splits for entry in group.entries]

    def values(entry: Entry, dataset: str, split: str) -> dict[int, float]:
        return group.values(entry, dataset, split, shots, "calibration_error")

    lines = []
    for dataset in group.datasets:
        cells = [cell(over_seeds(values(e, dataset, s)), group.expected(e)) for s, e in columns]
        lines.append(Line(dataset_title(dataset), _best_by_span(cells, len(group.entries), lowest=True)))
    if len(lines) > 1:
        sets = len(group.datasets)
        means = [average([values(e, d, s) for d in group.datasets]) for s, e in columns]
        cells = [cell(m, group.expected(e), sets) for m, (_, e) in zip(means, columns, strict=True)]
        lines.append(Line("Average", _best_by_span(cells, len(group.entries), lowest=True), total=True))
    if all(c.value is None for line in lines for c in line.cells):
        return None
    titles = {"base": "Base", "novel": "Novel", "all": shots_title(shots) if shots else "All classes"}
    return Table(
        group.scope.key("calibration"),
        "Calibration error",
        "Data set",
        tuple(entry.label for _, entry in columns),
        tuple(lines),
        tuple((titles[s], len(group.entries)) for s in splits),
        (
            "Expected calibration error in percentage points: how far stated probability and accuracy are apart, in 15 "
            "equal bins. Lower is better.",
        ),
    )


def shots_title(shots: int) -> str:
    return "All images" if shots == 0 else f"{shots} shot{'s' * (shots != 1)}"


def _best_by_kind(group: Group, scores: Sequence[Sequence[Score | None]], sets: int = 0) -> tuple[Cell, ...]:
    """Cells entry by entry; the best among the entries of base, of novel and of HM are marked."""
    kinds = [
        mark_best([cell(of[kind], group.expected(e), sets) for e, of in zip(group.entries, scores, strict=True)])
        for kind in range(3)
    ]
    return tuple(c for entry in zip(*kinds, strict=True) for c in entry)


def _best_by_span(cells: Sequence[Cell], span: int, *, lowest: bool) -> tuple[Cell, ...]:
    marked: list[Cell] = []
    for start in range(0, len(cells), span):
        marked += mark_best(cells[start : start + span], lowest=lowest)
    return tuple(marked)


def _has(group: Group, entry: Entry, shots: int) -> bool:
    return any(slot[0] == entry and slot[3] == shots for slot in group.slots)


def _seeds_note(group: Group) -> str:
    count = len(group.seeds)
    named = ", ".join(map(str, group.seeds))
    if count == 1:
        return f"Accuracy in per cent, one seed ({named}). Best in bold."
    return f"Accuracy in per cent: mean ± population standard deviation over {count} seeds ({named}). Best in bold."


def _marks(lines: Sequence[Line]) -> list[str]:
    cells = [c for line in lines for c in line.cells]
    notes = [FEWER] if any(c.note and not c.partial for c in cells) else []
    return notes + ([PARTIAL] if any(c.partial for c in cells) else [])
