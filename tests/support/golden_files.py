"""Which golden runs there are, and the line about them at the end of the tests."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
HERE = ROOT / "tests" / "golden"
"""The runs of the repository, which every test run needs."""
BESIDE = ROOT.parent / "shared" / "golden"
"""Larger runs of the same methods, tested too where they happen to be."""
TEST = "test_golden.py::test_golden["


def listed(folder: Path = HERE) -> dict[str, str]:
    """File name -> sha256, as the folder's own list has them."""
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


def folders(named: str | None = None) -> list[Path]:
    """Ours, then those that FEWCLIP_GOLDEN names, which must exist; without it the larger ones, if they are there."""
    named = os.environ.get("FEWCLIP_GOLDEN") if named is None else named
    if named:
        return [HERE, *(Path(part) for part in named.split(os.pathsep) if part)]
    return [HERE, BESIDE] if BESIDE.is_dir() else [HERE]


def files(places: Sequence[Path]) -> dict[str, Path]:
    """Name of a test -> its file. Files of further folders have the folder's name before their own."""
    found: dict[str, Path] = {}
    for place in places:
        for path in sorted(place.glob("*.safetensors")):
            name = path.stem if place == HERE else f"{place.name}/{path.stem}"
            while name in found:
                name += "+"
            found[name] = path
    return found


def summary(stats: Mapping[str, Sequence[Any]]) -> list[str]:
    """What ran, for the end of the tests; nothing where no golden run was asked for.

    Args:
        stats: pytest's reports, by outcome.
    """
    reports = {kind: [r for r in stats.get(kind, ()) if TEST in r.nodeid] for kind in ("passed", "failed", "xfailed")}
    if not any(reports.values()):
        return []
    count = {kind: len(of_kind) for kind, of_kind in reports.items()}
    lines = [
        f"golden runs: {count['passed']} equal ours, {count['failed']} differ, "
        f"{count['xfailed']} are of methods that fewclip does not have."
    ]
    largest: dict[str, float] = {}
    for report in reports["passed"]:
        for measure, value in report.user_properties:
            largest[measure] = max(largest.get(measure, 0.0), value)
    if largest:
        lines.append("  largest deviations: " + ", ".join(f"{name} = {value:.1e}" for name, value in largest.items()))
    for place in folders():
        there = len(list(place.glob("*.safetensors")))
        absent = len([name for name in listed() if not (HERE / name).exists()]) if place == HERE else 0
        lines.append(f"  {place}: {there} files, {absent} absent")
    if len(folders()) == 1:
        lines.append("  no further folder (FEWCLIP_GOLDEN names one)")
    return lines
