"""Presets: every cell against the numbers that the methods' authors published.

`published_settings.csv` holds them, typed off the published configurations, launch scripts and papers, not off the code. A line
names settings and their values (JSON, with blanks between) for some protocols, data sets and numbers of shots (* is all of
them); a later line overrides an earlier one. `fair` must follow the lines that name no data set, `paper` all of them.
"""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fewclip.bench.presets import TABLE, settings_by_target, settings_for
from fewclip.bench.protocols import ELEVEN, IMAGENET, PROTOCOLS
from fewclip.bench.sweep import Sweep
from fewclip.data.benchmarks.table import find_benchmark
from fewclip.errors import SettingsError
from fewclip.methods import METHODS, make_settings
from fewclip.report import published
from fewclip.training.settings import TrainSettings, published_training

SHOTS = (1, 2, 4, 8, 16)
BY_TARGET = {
    "imagenetv2": 0.9, "imagenet_r": 0.9, "imagenet_a": 0.8, "imagenet_sketch": 0.7, "fgvc_aircraft": 0.9, "ucf101": 0.9,
    "sun397": 0.7, "oxford_pets": 0.6, "caltech101": 0.6, "dtd": 0.5, "oxford_flowers": 0.4, "stanford_cars": 0.3,
    "eurosat": 0.3, "food101": 0.3,
}  # fmt: skip
"""The β that MMRL++'s authors chose by the data set tested on."""


@cache
def lines() -> tuple[dict[str, Any], ...]:
    with (Path(__file__).parent / "published_settings.csv").open(newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))


def values(text: str) -> list[Any]:
    """Several JSON values with blanks between."""
    found, decoder = [], json.JSONDecoder()
    while text := text.strip():
        value, end = decoder.raw_decode(text)
        found.append(tuple(value) if isinstance(value, list) else value)
        text = text[end:]
    return found


def stated(preset: str, protocol: str, method: str, source: str, shots: int) -> dict[str, Any]:
    """What was published for a cell."""
    found: dict[str, Any] = {}
    for line in lines():
        if line["method"] != method:
            continue
        if line["protocols"].startswith("="):
            found |= stated(preset, protocol, line["protocols"][1:], source, shots)
            continue
        own = line["datasets"] == "*" or (preset == "paper" and source in line["datasets"].split())
        here = line["protocols"] == "*" or protocol in line["protocols"].split()
        if own and here and (line["shots"] == "*" or str(shots) in line["shots"].split()):
            found |= dict(zip(line["setting"].split(), values(line["value"]), strict=True))
    return found


def used(preset: str, protocol: str, method: str, source: str, shots: int) -> dict[str, Any]:
    """All settings of training and of the method that a run in a cell has, by preset or by default."""
    given = published_training(method) | settings_for(preset, protocol, method, source, shots)
    training = {f.name for f in fields(TrainSettings)}
    of_training = TrainSettings(**{k: v for k, v in given.items() if k in training})
    return asdict(of_training) | asdict(make_settings(method, {k: v for k, v in given.items() if k not in training}))


@pytest.mark.parametrize("preset", ["fair", "paper"])
@pytest.mark.parametrize("method", METHODS)
def test_every_cell_is_the_published_one(method: str, preset: str) -> None:
    for protocol in PROTOCOLS.values():
        for source in IMAGENET if protocol.targets else ELEVEN:
            for shots in SHOTS:
                cell = protocol.name, method, source, shots
                expected, actual = stated(preset, *cell), used(preset, *cell)
                assert {name: actual[name] for name in expected} == expected, cell
                unstated = settings_for(preset, *cell).keys() - expected.keys()
                assert not unstated, f"{cell}: presets without a published value"


def test_every_line_is_of_something_known() -> None:
    assert {line["method"] for line in lines()} == set(METHODS)
    for line in lines():
        if not line["protocols"].startswith("="):
            assert line["protocols"] == "*" or set(line["protocols"].split()) <= set(PROTOCOLS)
            assert line["datasets"] == "*" or set(line["datasets"].split()) <= set(ELEVEN)
            assert line["shots"] == "*" or set(map(int, line["shots"].split())) <= set(SHOTS)


def test_settings_by_target() -> None:
    targets = {t for p in PROTOCOLS.values() for t in p.targets}
    assert set(BY_TARGET) == targets
    for protocol in PROTOCOLS.values():
        for method in METHODS:
            for target in targets:
                expected = {"beta": BY_TARGET[target]} if method == "mmrlpp" and protocol.targets else {}
                assert settings_by_target("paper", protocol.name, method, target) == expected
                assert settings_by_target("fair", protocol.name, method, target) == {}


def test_presets_reach_the_runs() -> None:
    for protocol, shots in (("few-shot", 2), ("base-to-novel", 16)):
        sweep = Sweep(
            protocols=(protocol,), methods=("prograd", "mmrlpp"), datasets=("dtd",), shots=(shots,), preset="paper"
        )
        for run in sweep.runs():
            assert run.settings == settings_for("paper", protocol, run.method, "dtd", shots)
    (run,) = Sweep(protocols=("cross-dataset",), methods=("mmrlpp",), seeds=(1,), preset="paper").runs()
    assert run.target_settings == {t: {"beta": BY_TARGET[t]} for t in run.targets}
    (run,) = Sweep(protocols=("cross-dataset",), methods=("mmrlpp",), seeds=(1,), preset="fair").runs()
    assert run.target_settings == {}


def test_every_preset_is_a_setting_of_its_method() -> None:
    known = {f.name for f in fields(TrainSettings)}
    for method, presets in TABLE.items():
        assert method in METHODS
        for settings in [rule.settings for rule in presets.rules] + list(presets.by_target.values()):
            make_settings(method, {k: v for k, v in settings.items() if k not in known})
        for rule in presets.rules:
            assert rule.settings
            assert set(rule.protocols) <= set(PROTOCOLS)
            assert set(rule.shots) <= set(SHOTS)
            assert {find_benchmark(d).key for d in rule.datasets} == set(rule.datasets)


def test_an_unknown_preset() -> None:
    with pytest.raises(SettingsError, match="There is no preset 'best'"):
        settings_for("best", "few-shot", "mmrl", "dtd")


def test_lambda_is_the_best_of_the_published_table() -> None:
    best: dict[str, tuple[float, float]] = {}
    for line in published.read("ablation_lambda"):
        if line["source"] == "table8" and line["dataset"] != "Average":
            scored = float(line["hm"]), float(line["lambda"])
            best[line["our_dataset"]] = max(best.get(line["our_dataset"], (0.0, 0.0)), scored)
    assert set(best) == set(ELEVEN)
    for dataset, (_, weight) in best.items():
        assert settings_for("paper", "base-to-novel", "mmrl", dataset)["reg_weight"] == weight
