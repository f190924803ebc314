"""A report as one HTML file that needs nothing else: no network, no other file, no script to be complete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fewclip.errors import OutputError
from fewclip.report import plots
from fewclip.report.build import Report, Section
from fewclip.report.drawing import Look, Plot, drawing, looks
from fewclip.report.mistakes import Sheet, Thumbnail, sheet, thumbnails
from fewclip.report.names import dataset_title, slug
from fewclip.report.tables import Table
from fewclip.version import __version__

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Mistakes:
    """Of one data set."""

    dataset: str
    confusions: Table | None
    sheet: Sheet | None


@dataclass(frozen=True)
class Part:
    """A section, and what is drawn of it."""

    id: str
    section: Section
    plots: tuple[Plot, ...]
    cost_plots: tuple[Plot, ...]
    mistakes: tuple[Mistakes, ...]


def page(report: Report, root: Path | None = None) -> str:
    """The page. `root`: folder that holds the data sets, for pictures.

    Raises:
        OutputError: the extra `report` is not installed.
    """
    try:
        import matplotlib  # noqa: F401 - what `drawing` needs
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup
    except ModuleNotFoundError as error:
        raise OutputError(
            f"A report as a page needs {error.name}: pip install 'fewclip[report]', or choose --format md, latex or csv."
        ) from error
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    styles = looks(report.labels, report.plain)
    thumbnail = thumbnails(root)
    with drawing():
        parts = [_part(n, section, styles, thumbnail) for n, section in enumerate(report.sections, 1)]
    return environment.get_template("page.html.jinja").render(
        report=report,
        parts=parts,
        own=(Markup(HERE.joinpath("page.css").read_text()), Markup(HERE.joinpath("page.js").read_text())),
        svg=lambda plot: Markup(plot.svg),  # made by matplotlib, which escapes all text
        version=__version__,
    )


def _part(number: int, section: Section, styles: Mapping[str, Look], thumbnail: Thumbnail) -> Part:
    group = section.group
    name = f"s{number}-{slug(section.title)[:40]}"
    if group.scope.ablation is not None:
        return Part(name, section, (), (), ())
    tables = dict(section.confusions)
    mistakes = [Mistakes(dataset_title(d), tables.get(d), sheet(group, d, thumbnail)) for d in group.datasets]
    return Part(
        name,
        section,
        tuple(plots.plots(group, styles)),
        tuple(plots.cost_plots(group, styles)),
        tuple(m for m in mistakes if m.confusions or m.sheet),
    )
