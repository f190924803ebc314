"""Axes for a page: SVG whose text is text and whose colours are the page's."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (3.75, 2.9)
"""Of a plot, in inches; the page scales it."""
INK, MUTED, RULE, PAPER = "#010101", "#020202", "#030303", "#040404"
"""Stand for colours of the page: drawn as these, written as var(--ink), …"""
SERIES = 8
STYLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule", PAPER: "--paper"} | {
    f"#0500{n:02x}": f"--s{n}" for n in range(SERIES + 1)
}
MARKERS = "osD^vPXp"
FONT = 8.4


@dataclass(frozen=True)
class Look:
    """How a method is drawn, in every plot of a page."""

    colour: str
    marker: str
    dashes: str = "-"


@dataclass(frozen=True)
class Plot:
    title: str
    alt: str
    """What it shows, in words and numbers."""
    svg: str


def looks(labels: Sequence[str], plain: Sequence[str]) -> dict[str, Look]:
    """A colour and a marker for each label; `plain` ones are grey. Beyond eight, dashed lines."""
    chosen = {label: Look("#050000", "o", "--") for label in plain}
    for count, label in enumerate(label for label in labels if label not in plain):
        lap, n = divmod(count, SERIES)
        chosen[label] = Look(f"#0500{n + 1:02x}", MARKERS[(n + lap) % len(MARKERS)], ("-", "--", ":")[lap % 3])
    return chosen


@contextmanager
def drawing() -> Any:
    """matplotlib, set up."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "fewclip",
        "text.parse_math": False,
        "font.size": FONT,
        "font.family": "DejaVu Sans",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": RULE,
        "axes.labelcolor": MUTED,
        "axes.titlesize": 9.5,
        "axes.titlelocation": "left",
        "axes.titlecolor": INK,
        "axes.titlepad": 9,
        "axes.linewidth": 0.8,
        "xtick.color": RULE,
        "ytick.color": RULE,
        "xtick.labelcolor": MUTED,
        "ytick.labelcolor": MUTED,
        "grid.color": RULE,
        "grid.linewidth": 0.5,
        "lines.linewidth": 1.6,
        "lines.markersize": 4.6,
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a name in letters that matplotlib's font lacks
        yield


def plot(title: str, alt: str, draw: Callable[[Axes], None]) -> Plot:
    """Draw on new axes."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=SIZE, dpi=72, layout="constrained")  # a pixel is a point, as in the SVG
    axes = figure.add_subplot()
    axes.set_title(printable(title))
    axes.grid(axis="y", alpha=0.9)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    draw(axes)
    data = io.StringIO()
    figure.savefig(data, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return Plot(title, alt, _inline(data.getvalue()))


def printable(text: str, most: int = 40) -> str:
    """Without what can't be drawn, and not too long."""
    shown = "".join(c if c.isprintable() else " " for c in text)
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def spread(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Heights for labels near `values`, at least `gap` apart where that fits between `low` and `high`."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    gap = min(gap, (high - low) / max(len(values) - 1, 1))
    places = [0.0] * len(values)
    last = low - gap
    for i in order:
        places[i] = last = max(values[i], last + gap)
    limit = high
    for i in reversed(order):
        places[i] = limit = min(places[i], limit)
        limit -= gap
    return places


def label_points(axes: Axes, points: Sequence[tuple[float, float, str, str]]) -> None:
    """Each (x, y, text, colour) gets its text where it hides least."""
    axes.figure.canvas.draw()  # limits and layout are final now
    dots = [axes.transData.transform((x, y)) for x, y, _, _ in points]
    height = FONT * 1.15
    taken: list[tuple[float, float, float, float]] = [(x - 4, y - 4, x + 4, y + 4) for x, y in dots]
    left, bottom, right, top = axes.get_window_extent().extents
    for (px, py), (x, y, text, colour) in zip(dots, points, strict=True):
        width = len(text) * FONT * 0.56
        away = 6
        choices: list[Any] = []
        for dx, dy, across in (
            (away, 0, "left"), (-away, 0, "right"), (0, away + height / 2, "center"), (0, -away - height / 2, "center"),
            (away, height, "left"), (away, -height, "left"), (-away, height, "right"), (-away, -height, "right"),
            (away, 2 * height, "left"), (away, -2 * height, "left"),
        ):  # fmt: skip
            start = px + dx - {"left": 0, "right": width, "center": width / 2}[across]
            box = (start, py + dy - height / 2, start + width, py + dy + height / 2)
            outside = max(left - box[0], 0) + max(box[2] - right, 0) + max(bottom - box[1], 0) + max(box[3] - top, 0)
            hidden = sum(_overlap(box, other) for other in taken)
            choices.append((hidden + 50 * outside, len(choices), dx, dy, across, box))
        _, _, dx, dy, across, box = min(choices)
        taken.append(box)
        axes.annotate(
            text, (x, y), (dx, dy), textcoords="offset points",
            ha=across, va="center", color=colour, annotation_clip=False,
        ).set_in_layout(False)  # fmt: skip


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


_count = 0


def _inline(svg: str) -> str:
    """An <svg> for a page: its own ids, the page's colours and fonts, no size but its shape."""
    global _count
    _count += 1
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<metadata>.*?</metadata>\s*|<style type="text/css">.*?</style>', "", svg, flags=re.DOTALL)
    view = re.search(r'viewBox="([^"]+)"', svg)
    assert view is not None
    svg = re.sub(r"<svg[^>]*>", f'<svg viewBox="{view[1]}" aria-hidden="true" focusable="false">', svg, count=1)
    unused = r"figure|axes|patch|text|line2d|matplotlib\.axis|xtick|ytick|LineCollection|PathCollection"
    svg = re.sub(rf' id="(?:{unused})_\d+"', "", svg)
    for old in set(re.findall(r' id="([^"]+)"', svg)):
        svg = svg.replace(f'"{old}"', f'"f{_count}-{old}"').replace(f"#{old}", f"#f{_count}-{old}")
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r"font: ([\d.]+)px '[^;\"]*'", r"font-size: \1px", svg)
    for colour, name in STYLES.items():
        svg = svg.replace(colour, f"var({name})")
    return svg
