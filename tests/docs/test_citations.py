"""Nothing that is shipped cites a file that is not: a reader of the repository can follow every reference."""

from __future__ import annotations

import re

import pytest
from documents import ROOT

ELSEWHERE = re.compile(r"(?<![\w/])(?:\.\./)?shared/|\.\./shared\b|\bSPEC\b")
"""A folder beside the repository, and the specification that was in it. `/shared/…` is a path of an example."""
PLACES = ("src", "docs", "examples", "benchmarks", "recipes", ".")
"""Folders that are read with all below them; of the root only its own files."""
TEXTS = {".py", ".md", ".toml", ".yml", ".yaml", ".html", ".js", ".css", ".csv", ".jinja", ""}


@pytest.mark.parametrize("place", PLACES)
def test_every_citation_is_inside_the_repository(place: str) -> None:
    files = [path for path in (ROOT / place).glob("*" if place == "." else "**/*") if path.is_file()]
    texts = [path for path in files if path.suffix in TEXTS and "__pycache__" not in path.parts]
    assert texts
    outside = []
    for path in texts:
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if ELSEWHERE.search(line):
                outside.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not outside, "\n".join(outside)


@pytest.mark.parametrize("line", ["see shared/SPEC.md", "(SPEC §4)", "default ../shared/data)", "`../shared/golden`"])
def test_a_citation_outside_is_seen(line: str) -> None:
    assert ELSEWHERE.search(line)


@pytest.mark.parametrize("line", ["--root /shared/data", "a shared prefix", "SPECIAL"])
def test_what_is_not_a_citation(line: str) -> None:
    assert not ELSEWHERE.search(line)
