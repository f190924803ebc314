"""What docs/results states, against the rows that are there."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from statistics import mean, pstdev

import pytest

from fewclip.bench.evaluation import harmonic_mean
from fewclip.bench.rows import Row, read_rows
from fewclip.methods import METHODS
from fewclip.report.build import TITLE, build
from fewclip.report.text import markdown

RESULTS = Path(__file__).parents[2] / "docs" / "results"
PAGE = (RESULTS / "README.md").read_text(encoding="utf-8")
EVERY = re.search(r"^M=(\S+)$", PAGE, re.MULTILINE)
COLUMNS = (("icons", "icons"), ("photos-5-epochs", "caltech101"), ("photos-5-epochs", "oxford_flowers"))


def rows(name: str) -> list[Row]:
    return read_rows(RESULTS / "all-methods" / name)


def test_the_commands_name_the_methods_that_the_rows_are_of() -> None:
    assert EVERY is not None
    named = {*EVERY[1].split(","), "clip-lora"}
    for name in ("icons", "photos-5-epochs"):
        assert {row["method"] for row in rows(name)} == named
    assert named <= set(METHODS)
    assert f"the {len(named)} that score new classes" in PAGE
    for name in ("base-to-novel", "few-shot", "domain-generalization"):
        assert {row["method"] for row in read_rows(RESULTS / "icon-clip" / f"{name}.jsonl")} == {
            "zero-shot",
            "mmrl",
            "mmrlpp",
        }


def test_settings_seeds_and_preset_are_those_stated() -> None:
    for path in RESULTS.rglob("*.jsonl"):
        for row in read_rows(path):
            assert (row["preset"], row["backbone"]) == ("fair", "icon-clip")
            assert row["seed"] in (1, 2, 3)
            assert row["shots"] == 16 or row["protocol"] == "few-shot"
            assert row["versions"]["fewclip"] == "0.1.0"
            if "photos" in str(path):
                assert row["training"]["epochs"] == 5
    assert {row["training"]["epochs"] for row in rows("icons") if row["method"] == "clip-lora"} == {50}


def test_the_table_is_that_of_the_rows() -> None:
    lines = [
        [c.strip() for c in line.strip("|").split("|")]
        for line in PAGE.splitlines()
        if re.match(r"\| [a-z-]+ \| \d", line)
    ]
    assert {line[0] for line in lines} == {row["method"] for row in rows("icons")}
    for line in lines:
        for (name, dataset), cells in zip(COLUMNS, (line[1:4], line[4:7], line[7:10]), strict=True):
            found = [
                [
                    r["accuracy"]
                    for r in rows(name)
                    if (r["method"], r["dataset"], r["split"]) == (line[0], dataset, split)
                ]
                for split in ("base", "novel")
            ]
            assert [len(values) for values in found] == [3, 3]
            expected = [f"{mean(values):.1f} ± {pstdev(values):.1f}" for values in found]
            assert cells == [*expected, f"{harmonic_mean(mean(found[0]), mean(found[1])):.1f}"]
    assert all(float(a[3]) >= float(b[3]) for a, b in pairwise(lines))


@pytest.mark.parametrize("name", ["icons", "photos-5-epochs"])
def test_a_report_is_the_one_of_its_rows(name: str) -> None:
    assert (RESULTS / "all-methods" / name / "report.md").read_text(encoding="utf-8") == markdown(
        build(rows(name), TITLE)
    )
