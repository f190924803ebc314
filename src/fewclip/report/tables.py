"""A table, whatever it will be written as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fewclip.report.scores import Score

MISSING = "–"


@dataclass(frozen=True)
class Cell:
    """A number with its deviation, or a text."""

    value: float | None = None
    sd: float | None = None
    text: str = ""
    best: bool = False
    note: str = ""
    """What it lacks: "2/3" seeds, or "4/11" data sets."""
    partial: bool = False
    """An average over fewer data sets than others: it can't be the best."""
    signed: bool = False
    digits: int = 2

    @property
    def shown(self) -> str:
        """The number without its deviation, or the text."""
        if self.value is None:
            return self.text or MISSING
        shown = f"{self.value:,.{self.digits}f}"
        if not self.signed:
            return shown.replace("-", "−")
        zero = float(f"{self.value:.{self.digits}f}") == 0
        return f"±{abs(self.value):.{self.digits}f}" if zero else ("+" + shown if self.value > 0 else "−" + shown[1:])

    @property
    def spread(self) -> str:
        return "" if self.sd is None or self.value is None else f"{self.sd:.{self.digits}f}"


EMPTY = Cell()


@dataclass(frozen=True)
class Line:
    label: str
    cells: tuple[Cell, ...]
    group: str = ""
    """Lines of one group are shown together under its name."""
    total: bool = False
    """An average, set off from the others."""


@dataclass(frozen=True)
class Table:
    key: str
    title: str
    corner: str
    """Heading of the first column."""
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    groups: tuple[tuple[str, int], ...] = ()
    """Headings above the columns, each with the number it spans."""
    notes: tuple[str, ...] = ()
    group_corner: str = ""
    """What the groups of lines are."""
    text_columns: tuple[int, ...] = ()
    """Those that hold words: set flush left."""

    @property
    def grouped(self) -> bool:
        return any(line.group for line in self.lines)

    def headings(self) -> list[str]:
        """One heading a column, its group's before it."""
        if not self.groups:
            return list(self.columns)
        above = [name for name, span in self.groups for _ in range(span)]
        return [f"{a}, {c}" if a and c else a or c for a, c in zip(above, self.columns, strict=True)]


def cell(score: Score | None, seeds: int = 0, datasets: int = 0) -> Cell:
    """A score, marked if it is of fewer seeds or data sets than expected. Without an expected number of seeds it is of
    something that no seed changes, and has no deviation."""
    if score is None:
        return EMPTY
    sd = score.sd if seeds else None
    note = f"{score.seeds}/{seeds}" if score.seeds < seeds else ""
    if score.datasets < datasets:
        return Cell(score.mean, sd, note=f"{score.datasets}/{datasets} sets", partial=True)
    return Cell(score.mean, sd, note=note)


def mark_best(cells: Sequence[Cell], *, lowest: bool = False) -> list[Cell]:
    """The cells with the best of them marked: all that show the same number as the best. None is marked
    where all are equal or there is only one."""
    values = [float(f"{c.value:.{c.digits}f}") for c in cells if c.value is not None and not c.partial]
    if len(set(values)) < 2:
        return list(cells)
    best = min(values) if lowest else max(values)
    return [
        replace(c, best=c.value is not None and not c.partial and float(f"{c.value:.{c.digits}f}") == best)
        for c in cells
    ]


def mark_columns(lines: Sequence[Line]) -> list[Line]:
    """The lines with the best of every column marked."""
    columns = map(mark_best, zip(*(line.cells for line in lines), strict=True))
    return [replace(line, cells=cells) for line, cells in zip(lines, zip(*columns, strict=True), strict=True)]


def only_columns(lines: Sequence[Line], kept: Sequence[int]) -> tuple[Line, ...]:
    return tuple(replace(line, cells=tuple(line.cells[i] for i in kept)) for line in lines)
