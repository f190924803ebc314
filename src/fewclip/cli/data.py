"""`fewclip data list`, `fewclip data check`, `fewclip data show`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from fewclip.cli.listing import List
from fewclip.cli.table import print_table

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Check:
    root: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="ROOT")]
    """Folder that holds the data sets' folders, such as caltech-101 and dtd."""
    names: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[NAMES]")] = ()
    """Data sets to check (see `fewclip data list`); by default all 15."""
    images: bool = False
    """Open every image as well."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, kw_only=True)
class Show:
    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """A data set: published, embedded, a folder or a CSV file."""
    root: Path | None = None
    """Folder that holds the published data sets; by default $FEWCLIP_DATA."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Also write a contact sheet of its images to this file, such as sheet.png."""


def data(arguments: list[str]) -> int:
    """The data sets: list those that fewclip knows, check what is on disk, show one."""
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments = ["list", *arguments]
    commands: dict[str, Callable[..., int]] = {"list": list_sets, "check": check_sets, "show": show_set}
    status: int = tyro.extras.subcommand_cli_from_dict(
        commands, prog="fewclip data", description=data.__doc__, args=arguments
    )
    return status


def list_sets(options: Annotated[List, tyro.conf.arg(name="")] = List()) -> int:  # noqa: B008 - frozen
    """The embedded and the published data sets, with their sizes."""
    rows = [*_embedded(), *_published()]
    if options.json:
        print(json.dumps(rows, ensure_ascii=False))
        return 0
    print_table([{key: value for key, value in row.items() if key != "what"} for row in rows])
    print(
        "Data sets with a folder are published ones, expected in ROOT/FOLDER in CoOp's layout (docs/data.md).\n"
        "fewclip data check ROOT: which of them are complete; fewclip data show NAME --root ROOT: one of them."
    )
    return 0


def check_sets(options: Annotated[Check, tyro.conf.arg(name="")]) -> int:
    """Which published data sets are on disk, what is missing, and where to get it. Exit status 1 if a data set that was
    asked for is missing or damaged."""
    from fewclip.data.benchmarks.check import check
    from fewclip.data.benchmarks.table import TABLE, find_benchmark
    from fewclip.errors import DataError

    if not options.root.is_dir():
        raise DataError(f"{options.root} is not a folder: give the one that holds the data sets' folders.")
    chosen = [find_benchmark(name) for name in options.names] or list(TABLE)
    reports = [check(benchmark, options.root, images=options.images) for benchmark in chosen]
    if options.json:
        print(json.dumps([asdict(report) for report in reports], ensure_ascii=False))
    else:
        for report in reports:
            print("\n".join(_lines(report)))
    complete = sum(report.state == "complete" for report in reports)
    if not options.json:
        print(f"{complete} of {len(reports)} data sets are complete.")
    return 0 if complete == len(reports) else 1


def show_set(options: Annotated[Show, tyro.conf.arg(name="")]) -> int:
    """A data set's classes, how many images each has, its template, and a contact sheet of its images."""
    from fewclip.data.summary import draw, summarise
    from fewclip.errors import visible

    summary = summarise(options.name, options.root)
    print(
        f"{visible(summary.name)}: {len(summary.classes)} classes, "
        + ", ".join(f"{split} {len(part):,}" for split, part in summary.splits.items())
        + f"\nTemplate: {summary.template or 'a photo of a {}. (the default)'}"
    )
    if summary.base is not None:
        print(f"Base: the first {summary.base} classes, novel: the other {len(summary.classes) - summary.base}")
    print_table(
        [
            {"label": label, "class": name} | {split: counts[label] for split, counts in summary.counts.items()}
            for label, name in enumerate(summary.classes)
        ]
    )
    if options.out is not None:
        draw(summary, options.out)
        print(f"Pictures: {options.out}")
    return 0


def _embedded() -> list[dict[str, Any]]:
    from fewclip.data.embedded import EMBEDDED, describe, read_embedded

    rows = []
    for name in EMBEDDED:
        meta = describe(name)
        sizes = {split: len(read_embedded(name, split)) for split in SPLITS}
        rows.append({"name": name, "classes": len(meta["classes"])} | sizes | {"folder": None, "what": meta["title"]})
    return rows


def _published() -> list[dict[str, Any]]:
    from fewclip.data.benchmarks.table import TABLE

    return [
        {"name": b.key, "classes": b.classes}
        | {split: b.published.get(split) for split in SPLITS}
        | {"folder": b.directory, "what": b.title}
        for b in TABLE
    ]


def _lines(report: Any) -> list[str]:
    """A report in words."""
    if report.state == "absent":
        return [f"{report.name}: absent, expected in {report.folder}", f"    from: {report.source}"]
    counts = ", ".join(f"{split} {report.found.get(split, 0):,}/{n:,}" for split, n in report.published.items())
    lines = [f"{report.name}: {report.state}, {counts}", *(f"    {problem}" for problem in report.problems)]
    return lines if report.state == "complete" else [*lines, f"    from: {report.source}"]
