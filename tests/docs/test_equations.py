"""The numbers in docs/equations.md are those that the code uses."""

from __future__ import annotations

import math
import re

import mmrl_plain
import pytest
import torch
from documents import ROOT
from small import VIT_B16

from fewclip.bench.presets import TABLE, settings_for
from fewclip.clip.model import CLIP
from fewclip.methods import METHODS
from fewclip.training.settings import TrainSettings, learning_rate

PAGE = (ROOT / "docs/equations.md").read_text(encoding="utf-8")
SETS = {
    "ImageNet": "imagenet",
    "Caltech101": "caltech101",
    "OxfordPets": "oxford_pets",
    "StanfordCars": "stanford_cars",
    "Flowers102": "oxford_flowers",
    "Food101": "food101",
    "FGVCAircraft": "fgvc_aircraft",
    "SUN397": "sun397",
    "DTD": "dtd",
    "EuroSAT": "eurosat",
    "UCF101": "ucf101",
    "ImageNetV2": "imagenetv2",
    "ImageNet-R": "imagenet_r",
    "ImageNet-A": "imagenet_a",
    "ImageNet-Sketch": "imagenet_sketch",
}


def table(heading: str) -> list[list[str]]:
    """The rows of the table whose first line begins so, without its two header lines."""
    lines = PAGE[PAGE.index(f"| {heading}") :].splitlines()
    found = []
    for line in lines[2:]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.split("|")[1:-1]])
    return found


@pytest.mark.parametrize("protocol", ["base-to-novel", "few-shot"])
def test_lambda_and_beta(protocol: str) -> None:
    rows = table("base-to-novel and few-shot | MMRL: λ")
    assert len(rows) == 11
    for name, mmrl, plus, beta in rows:
        settings = settings_for("paper", protocol, "mmrl", SETS[name])
        assert settings["reg_weight"] == float(mmrl.split()[0]), name
        assert settings.get("rep_dim") == (2048 if "2048" in mmrl else None), name
        settings = settings_for("paper", protocol, "mmrlpp", SETS[name])
        assert (settings["reg_weight"], settings["beta"]) == (float(plus), float(beta)), name


def test_beta_by_target() -> None:
    cells = [cell for row in table("target | β") for cell in row if cell]
    said = {SETS[name]: {"beta": float(beta)} for name, beta in zip(cells[::2], cells[1::2], strict=True)}
    assert said == TABLE["mmrlpp"].by_target


def test_protocols() -> None:
    said = {name: [float(cell.split()[0]) for cell in cells] for name, *cells in table("protocol | batch")}
    for name, protocol, method, source in (
        ("base-to-novel", "base-to-novel", "mmrl", "dtd"),
        ("base-to-novel", "base-to-novel", "mmrlpp", "dtd"),
        ("base-to-novel and few-shot on ImageNet", "base-to-novel", "mmrl", "imagenet"),
        ("base-to-novel and few-shot on ImageNet", "few-shot", "mmrlpp", "imagenet"),
        ("few-shot, MMRL", "few-shot", "mmrl", "dtd"),
        ("few-shot, MMRL++", "few-shot", "mmrlpp", "dtd"),
        ("cross-dataset, domain generalisation (ImageNet, 16 shots)", "cross-dataset", "mmrl", "imagenet"),
        ("cross-dataset, domain generalisation (ImageNet, 16 shots)", "domain-generalization", "mmrlpp", "imagenet"),
    ):
        settings = settings_for("paper", protocol, method, source)
        assert said[name] == [settings["batch_size"], settings["epochs"], settings["lr"]], name
    for method, weight in (("mmrl", 0.2), ("mmrlpp", 0.1)):
        assert settings_for("paper", "cross-dataset", method, "imagenet")["reg_weight"] == weight
        assert f"{weight} for {METHODS[method].title}" in PAGE


def test_learning_rate() -> None:
    settings = TrainSettings(epochs=10)
    for epoch in range(2, 11):
        said = settings.lr / 2 * (1 + math.cos(math.pi * (epoch - 1 - 1) / 10))
        assert learning_rate(settings, epoch) == pytest.approx(said, rel=1e-12)
    assert learning_rate(settings, 1) == 1e-5
    assert learning_rate(TrainSettings(epochs=1), 1) == settings.lr == 1e-3
    assert settings.weight_decay == 5e-4
    assert settings.crop_min == 0.5


def test_parameters() -> None:
    with torch.device("meta"):
        methods = [METHODS[name](CLIP(VIT_B16)) for name in ("mmrl", "mmrlpp")]
    starts = (("tokens.space",), ("tokens.to_image.",), ("tokens.to_text.",), ("rep_proj", "proj_"), ("",))
    for (name, *said), start in zip(table("learnable parameters on ViT-B/16"), starts, strict=True):
        for method, count in zip(methods, said, strict=True):
            counted = sum(p.numel() for key, p in method.named_parameters() if key.startswith(start))
            assert f"{counted:,}" == count.strip("*"), name


def test_the_plain_program_agrees_with_the_library(capsys: pytest.CaptureFixture[str]) -> None:
    """What it prints: two methods, three steps each, one loss."""
    mmrl_plain.main()
    steps = re.findall(r"loss (\S+), fewclip's (\S+); gradients differ by (\S+),", capsys.readouterr().out)
    assert len(steps) == 6
    for here, fewclips, apart in steps:
        assert here == fewclips
        assert float(apart) < 1e-9
