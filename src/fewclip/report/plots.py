"""The plots of a group: few-shot curves, base against novel, accuracy against cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fewclip.bench.presets.rules import HALVES
from fewclip.report.collect import Entry, Group
from fewclip.report.costs import cost, headline
from fewclip.report.drawing import MUTED, PAPER, RULE, Look, Plot, label_points, plot, printable, spread
from fewclip.report.layouts import averages, shots_title
from fewclip.report.names import dataset_title
from fewclip.report.scores import Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_PANELS = 12
Looks = Mapping[str, Look]
Point = tuple[Entry, float, float]


def plots(group: Group, looks: Looks) -> list[Plot]:
    """The plots of a group's accuracies."""
    if group.scope.protocol in HALVES:
        return scatters(group, looks)
    return curves(group, looks) if group.scope.protocol == "few-shot" and len(group.shots) > 1 else []


def curves(group: Group, looks: Looks) -> list[Plot]:
    """Accuracy by shots: the average first, then every data set."""
    drawn = []
    for title, datasets in _panels(group):
        scores = {e: [(s, group.score(e, "all", s, datasets=datasets)) for s in group.shots] for e in group.entries}
        drawn.append(_curve(title, scores, looks))
    return drawn


def _panels(group: Group) -> list[tuple[str, Sequence[str]]]:
    """Title and data sets of each plot of a group."""
    panels: list[tuple[str, Sequence[str]]] = [(dataset_title(d), [d]) for d in group.datasets]
    average = (f"Average of {len(group.datasets)} data sets", group.datasets)
    return [average, *panels] if len(panels) > 1 else panels


def _curve(title: str, scores: Mapping[Entry, Sequence[tuple[int, Score | None]]], looks: Looks) -> Plot:
    lines = {e: [(s, score) for s, score in points if score] for e, points in scores.items()}
    lines = {e: points for e, points in lines.items() if points}
    shots = sorted({s for points in lines.values() for s, _ in points})
    place = {s: i for i, s in enumerate(shots)}

    def draw(axes: Axes) -> None:
        for entry, points in lines.items():
            look = looks[entry.label]
            xs, ys = [place[s] for s, _ in points], [score.mean for _, score in points]
            under, over = ([score.mean + sign * (score.sd or 0.0) for _, score in points] for sign in (-1, 1))
            axes.fill_between(xs, under, over, color=look.colour, alpha=0.13, linewidth=0)
            axes.plot(
                xs, ys, look.dashes, color=look.colour, marker=look.marker, markeredgecolor=PAPER, markeredgewidth=0.7
            )
        axes.set_xticks(list(place.values()), [str(s or "all") for s in shots])
        axes.set(xlabel="shots per class", ylabel="accuracy, %")
        axes.margins(x=0.04, y=0.1)
        low, high = axes.get_ylim()
        ends = [points[-1] for points in lines.values()]
        heights = spread([score.mean for _, score in ends], (high - low) * 0.075, low, high)
        for (entry, _), y in zip(lines.items(), heights, strict=True):
            name, colour = printable(entry.label, 22), looks[entry.label].colour
            axes.annotate(name, (1.02, y), xycoords=("axes fraction", "data"), color=colour, va="center")

    numbers = "; ".join(
        f"{e.label} " + ", ".join(f"{score.mean:.1f} at {shots_title(s)}" for s, score in points)
        for e, points in lines.items()
    )
    return plot(title, f"Accuracy in per cent by shots, {title}: {numbers}.", draw)


def scatters(group: Group, looks: Looks) -> list[Plot]:
    """Base against novel accuracy: the average first, then every data set."""
    drawn = []
    for title, datasets in _panels(group)[: MOST_PANELS + 1]:
        points = []
        for entry in group.entries:
            base, novel = (group.score(entry, split, datasets=datasets) for split in ("base", "novel"))
            if base and novel and base.datasets == novel.datasets == len(datasets):
                points.append((entry, base.mean, novel.mean))
        if points:
            drawn.append(_scatter(title, points, looks))
    return drawn


def _scatter(title: str, points: Sequence[Point], looks: Looks) -> Plot:
    def draw(axes: Axes) -> None:
        axes.grid(False)
        (left, right), (low, high) = _limits([x for _, x, _ in points]), _limits([y for _, _, y in points])
        axes.set(xlim=(left, right), ylim=(low, high), xlabel="base accuracy, %", ylabel="novel accuracy, %")
        _iso_lines(axes)
        _dots(axes, points, looks)

    numbers = "; ".join(f"{e.label} base {x:.1f}, novel {y:.1f}" for e, x, y in points)
    return plot(title, f"Base against novel accuracy in per cent, {title}: {numbers}.", draw)


def _dots(axes: Axes, points: Sequence[Point], looks: Looks) -> None:
    """A marker and a name for each method."""
    for entry, x, y in points:
        look = looks[entry.label]
        axes.plot(x, y, look.marker, color=look.colour, markersize=7, markeredgecolor=PAPER, markeredgewidth=0.8)
    label_points(axes, [(x, y, printable(e.label, 22), looks[e.label].colour) for e, x, y in points])


def _iso_lines(axes: Axes) -> None:
    """Lines of equal harmonic mean."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    ends = [2 * b * n / (b + n) if b + n > 0 else 0.0 for b, n in ((left, low), (right, high))]
    step = next((s for s in (0.5, 1, 2, 5, 10, 20) if (ends[1] - ends[0]) / s <= 7), 20)
    mean = (int(max(ends[0], 0) / step) + 1) * step
    while mean < min(ends[1], 100):
        xs = [left + (right - left) * i / 60 for i in range(61)]
        curve = [(x, mean * x / (2 * x - mean)) for x in xs if 2 * x - mean > 0.5]
        curve = [(x, y) for x, y in curve if low <= y <= high]
        if len(curve) > 2:
            axes.plot(*zip(*curve, strict=True), color=RULE, linewidth=0.8)
            x, y = curve[-1]
            axes.annotate(
                f"{mean:g}", (x, y), (2, 0) if x > right - (right - left) / 30 else (4, 5), textcoords="offset points",
                color=MUTED, fontsize=7, va="center", annotation_clip=False,
            )  # fmt: skip
        mean += step


def cost_plots(group: Group, looks: Looks) -> list[Plot]:
    """The headline number against seconds of training and against trained parameters."""
    drawn = []
    for title, axis, field in (
        ("Accuracy and training time", "seconds of training", "train_seconds"),
        ("Accuracy and size", "trained parameters", "parameters"),
    ):
        points: list[Point] = []
        level: list[tuple[Entry, float]] = []
        for entry in group.entries:
            score, spent = averages(group, entry)[-1], getattr(cost(group, entry), field)
            if score is None or spent is None or score.datasets < len(group.datasets) - bool(group.scope.source):
                continue
            if entry.method != "zero-shot" and spent > 0:
                points.append((entry, spent, score.mean))
            else:
                level.append((entry, score.mean))
        if points:
            drawn.append(_cost(title, axis, headline(group), points, level, looks))
    return drawn


def _cost(
    title: str, axis: str, name: str, points: Sequence[Point], level: Sequence[tuple[Entry, float]], looks: Looks
) -> Plot:
    def draw(axes: Axes) -> None:
        axes.set_xscale("log")
        spent = [x for _, x, _ in points]
        axes.set_xlim(*_decades(min(spent), max(spent)))
        axes.set_ylim(*_limits([y for _, _, y in points] + [y for _, y in level]))
        axes.set(xlabel=axis, ylabel=f"{name}, %")
        axes.minorticks_off()
        axes.xaxis.set_major_formatter(lambda value, _: _short(value))
        for entry, y in level:
            axes.axhline(y, color=looks[entry.label].colour, linestyle=(0, (4, 3)), linewidth=1.1)
            axes.annotate(
                f"{printable(entry.label, 22)}: nothing trained", (0.015, y), (0, 4), ("axes fraction", "data"), "offset points",
                color=looks[entry.label].colour,
            )  # fmt: skip
        _dots(axes, points, looks)

    numbers = "; ".join(f"{e.label} {y:.1f} with {x:,.0f} {axis}" for e, x, y in points)
    numbers += "".join(f"; {e.label} {y:.1f} without training" for e, y in level)
    return plot(title, f"{name} in per cent against {axis}: {numbers}.", draw)


def _limits(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = max((high - low) * 0.3, 1.0)
    return max(low - room, 0.0), min(high + room, 100.0) if high < 99.5 else high + room


def _decades(low: float, high: float) -> tuple[float, float]:
    return 10 ** math.floor(math.log10(low / 1.5)), 10 ** math.ceil(math.log10(high * 1.5))


def _short(value: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g}"
