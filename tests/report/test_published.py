"""Published numbers: each is found under the right method, data set, shots and column."""

from __future__ import annotations

import csv

import pytest
from results import halves, row

from fewclip.bench.run import dataset_key
from fewclip.methods import METHODS
from fewclip.report import published
from fewclip.report.collect import collect
from fewclip.report.names import PUBLISHED_AS

OURS = {
    "CLIP": "zero-shot", "Linear probe CLIP": "linear-probe", "CoOp": "coop", "CoCoOp": "cocoop", "ProDA": "proda",
    "KgCoOp": "kgcoop", "MaPLe": "maple", "PromptSRC": "promptsrc", "ProVP": "provp", "MetaPrompt": "metaprompt", "TCP": "tcp",
    "MMA": "mma", "MMRL": "mmrl",
}  # fmt: skip
"""What the published tables print -> what it is called here."""


def table(name: str) -> list[dict[str, str]]:
    with (published.FOLDER / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("protocol", published.SOURCES)
def test_every_printed_number_is_found_where_it_belongs(protocol: str) -> None:
    """Two lines of a table never have the same place, so that a wrong one can't stand in."""
    columns = ("base", "novel", "hm") if protocol == "base-to-novel" else ("accuracy",)
    lines = table(protocol.replace("-", "_"))
    places = set()
    for line in lines:
        place = OURS[line["method"]], dataset_key(line["dataset"]), int(line.get("shots", 0))
        assert place not in places
        places.add(place)
        for column in columns:
            assert published.lookup(protocol, place[0], place[1], column, place[2]) == float(line[column])
    shots = {n for _, _, n in places}
    assert shots == ({1, 2, 4, 8, 16} if protocol == "few-shot" else {0})


def test_what_the_tables_print_is_one_method_each() -> None:
    printed = {line["method"] for name in published.SOURCES for line in table(name.replace("-", "_"))}
    assert printed == set(OURS)
    assert {name: PUBLISHED_AS[name] for name in printed} == OURS
    assert set(PUBLISHED_AS.values()) == set(METHODS)


def test_some_numbers_as_the_papers_have_them() -> None:
    """Read in the papers, for methods whose names or lines are easily taken for another's."""
    assert published.lookup("few-shot", "coop", "caltech101", "accuracy", 1) == 92.60
    assert published.lookup("few-shot", "coop", "caltech101", "accuracy", 16) == 95.57
    assert published.lookup("few-shot", "cocoop", "caltech101", "accuracy", 16) == 95.16
    assert published.lookup("base-to-novel", "coop", "eurosat", "novel") == 54.74
    assert published.lookup("base-to-novel", "cocoop", "eurosat", "novel") == 60.04
    assert published.lookup("cross-dataset", "coop", "dtd", "accuracy") == 41.92
    assert published.lookup("cross-dataset", "cocoop", "dtd", "accuracy") == 45.73
    assert published.lookup("domain-generalization", "cocoop", "imagenet_sketch", "accuracy") == 48.75
    assert published.lookup("few-shot", "coop", "caltech101", "accuracy", 3) is None
    assert published.lookup("open", "coop", "caltech101", "accuracy") is None


def test_trained_parameters() -> None:
    millions = {
        OURS[line["method"]]: float(line["params_millions"]) for line in table("cost") if line["method"] in OURS
    }
    for method, count in millions.items():
        assert published.parameters(method) == pytest.approx(count * 1e6)
    assert published.parameters("mmrl") == 4_992_000  # not that of MMRL*, which has another dimension
    assert published.parameters("coop") is None


def test_each_number_of_shots_stands_beside_its_own() -> None:
    rows = [
        row(method="coop", protocol="few-shot", split="all", shots=shots, accuracy=90.0, source="caltech101")
        for shots in (1, 16)
    ]
    (group,) = collect(rows)
    found = published.comparison(group)
    assert found is not None
    (line,) = found.lines
    assert [cell.value for cell in line.cells] == pytest.approx([90.0, 92.6, -2.6, 90.0, 95.57, -5.57])


def test_each_method_stands_beside_its_own() -> None:
    rows = [*halves("coop", "eurosat", 1, 80.0, 60.0), *halves("cocoop", "eurosat", 1, 80.0, 60.0)]
    (group,) = collect(rows)
    found = published.comparison(group)
    assert found is not None
    assert [(line.group, line.cells[4].value) for line in found.lines] == [("CoOp", 54.74), ("CoCoOp", 60.04)]
