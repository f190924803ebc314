"""`fewclip report`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from inspect import cleandoc
from pathlib import Path
from typing import Annotated, Literal

import tyro

SUFFIXES = {".html": "html", ".htm": "html", ".md": "md", ".markdown": "md", ".tex": "latex", ".csv": "csv"}


@dataclass(frozen=True, kw_only=True)
class Options:
    results: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RESULTS…")]
    """Output folders of `fewclip bench`, or their rows.jsonl files. Several are combined."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="FILE")] = None
    """File to write, such as report.html, tables.md, tables.tex or numbers.csv. Without it, Markdown tables are printed."""
    format: Literal["html", "md", "latex", "csv"] | None = None
    """By default what the file name ends in; otherwise html with a file, and md without."""
    root: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder with the data sets, for the pictures in an HTML page; by default $FEWCLIP_DATA."""
    title: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    """Heading of the report."""


def report(arguments: list[str]) -> int:
    """Turn the results of `fewclip bench` into tables and plots: one self-contained HTML page, or tables in Markdown, LaTeX or
    CSV. Published numbers are shown beside yours where there are any (docs/reports.md)."""
    options = tyro.cli(Options, prog="fewclip report", description=cleandoc(report.__doc__ or ""), args=arguments)
    from fewclip.errors import OutputError
    from fewclip.files.write import write_text
    from fewclip.report.build import TITLE, build
    from fewclip.report.collect import load

    kind = options.format or ("md" if options.out is None else SUFFIXES.get(options.out.suffix.lower(), "html"))
    if kind == "html" and options.out is None:
        raise OutputError("An HTML page is written to a file: add -o report.html, or choose another --format.")
    made = build(load(options.results), options.title or TITLE)
    if kind == "html":
        from fewclip.report.html import page

        text = page(made, options.root)
    else:
        from fewclip.report.text import comma_separated, latex, markdown

        text = {"md": markdown, "latex": latex, "csv": comma_separated}[kind](made)
    if options.out is None:
        sys.stdout.write(text)
    else:
        write_text(options.out, text)
        megabytes = len(text.encode()) / 1e6
        print(f"{options.out}: {made.headline}" + (f" ({megabytes:.1f} MB)" if megabytes >= 0.1 else ""))
    return 0
