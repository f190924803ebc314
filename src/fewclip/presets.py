"""Settings of the protocols: one table.

`fair` trains every data set with the same settings, those of the protocol and otherwise the method's defaults, so that
nothing is chosen by looking at a data set. `paper` adds what the authors' published code sets for each data set.

Source: the published configurations of MMRL (CVPR 2025) and MMRL++ (IJCV 2026); MMRL's λ are also Table 8 of its paper.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from fewclip.errors import SettingsError

PRESETS = ("fair", "paper")
HALVES = ("base-to-novel", "open")
FEW_SHOT = ("few-shot",)
TRANSFER = ("cross-dataset", "domain-generalization")


@dataclass(frozen=True)
class Rule:
    """Settings for some protocols (none named: all) and data sets (none named: all); a later rule overrides."""

    settings: dict[str, Any]
    protocols: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Presets:
    """What is known of one method: rules for training, and settings that the authors chose by the data set tested on."""

    rules: tuple[Rule, ...] = ()
    by_target: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of the transfer protocols, `paper` only: reported beside the usual prediction, never in its place."""


def each(setting: str, values: dict[str, Any], protocols: tuple[str, ...]) -> Iterator[Rule]:
    """One rule for each data set."""
    for dataset, value in values.items():
        yield Rule({setting: value}, protocols, (dataset,))


BASE_TO_NOVEL = {"batch_size": 4, "epochs": 10, "lr": 1e-3}
ONE_EPOCH = {"batch_size": 32, "epochs": 1, "lr": 1e-3, "warmup_epochs": 0}
IMAGENET = {"batch_size": 32, "epochs": 5, "lr": 1e-3}

MMRL = Presets(
    (
        Rule(BASE_TO_NOVEL, HALVES),
        Rule({"batch_size": 32, "epochs": 50, "lr": 1e-3}, FEW_SHOT),
        Rule(ONE_EPOCH, TRANSFER),
        Rule(IMAGENET, (*HALVES, *FEW_SHOT), ("imagenet",)),
        Rule({"reg_weight": 0.2}, TRANSFER, ("imagenet",)),
        Rule({"rep_dim": 2048}, (*HALVES, *FEW_SHOT), ("eurosat",)),
        *each(
            "reg_weight",
            {
                "imagenet": 0.5,
                "caltech101": 0.5,
                "oxford_pets": 0.2,
                "stanford_cars": 7.0,
                "oxford_flowers": 4.0,
                "food101": 5.0,
                "fgvc_aircraft": 6.0,
                "sun397": 6.0,
                "dtd": 6.0,
                "eurosat": 0.01,
                "ucf101": 3.0,
            },
            (*HALVES, *FEW_SHOT),
        ),
    )
)

MMRLPP = Presets(
    (
        Rule(BASE_TO_NOVEL, HALVES),
        Rule({"batch_size": 32, "epochs": 100, "lr": 2e-3}, FEW_SHOT),
        Rule(ONE_EPOCH, TRANSFER),
        Rule(IMAGENET, (*HALVES, *FEW_SHOT), ("imagenet",)),
        Rule({"reg_weight": 0.1, "beta": 0.9}, TRANSFER, ("imagenet",)),
        *(
            Rule({"reg_weight": weight, "beta": beta}, (*HALVES, *FEW_SHOT), (dataset,))
            for dataset, weight, beta in (
                ("imagenet", 0.2, 0.9),
                ("caltech101", 3.0, 0.6),
                ("oxford_pets", 0.01, 0.7),
                ("stanford_cars", 6.0, 0.7),
                ("oxford_flowers", 7.0, 0.4),
                ("food101", 1.0, 0.1),
                ("fgvc_aircraft", 2.0, 0.9),
                ("sun397", 3.0, 0.5),
                ("dtd", 7.0, 0.9),
                ("eurosat", 0.01, 0.2),
                ("ucf101", 3.0, 0.9),
            )
        ),
    ),
    by_target={
        dataset: {"beta": beta}
        for dataset, beta in {
            "imagenetv2": 0.9,
            "imagenet_r": 0.9,
            "imagenet_a": 0.8,
            "imagenet_sketch": 0.7,
            "fgvc_aircraft": 0.9,
            "ucf101": 0.9,
            "sun397": 0.7,
            "oxford_pets": 0.6,
            "caltech101": 0.6,
            "dtd": 0.5,
            "oxford_flowers": 0.4,
            "stanford_cars": 0.3,
            "eurosat": 0.3,
            "food101": 0.3,
        }.items()
    },
)

TABLE: dict[str, Presets] = {"mmrl": MMRL, "mmrlpp": MMRLPP}
"""By method; one that is not here has its own defaults in every protocol."""


def settings_for(preset: str, protocol: str, method: str, source: str) -> dict[str, Any]:
    """Settings of method and training that differ from the defaults. In `paper`, what the authors set for the data set
    trained on comes on top of what they set for the protocol.

    Raises:
        SettingsError: no such preset.
    """
    if preset not in PRESETS:
        raise SettingsError(f"There is no preset {preset!r}: choose one of {', '.join(PRESETS)}.")
    found: dict[str, Any] = {}
    for rule in TABLE.get(method, Presets()).rules:
        here = not rule.protocols or protocol in rule.protocols
        if here and (not rule.datasets or (preset == "paper" and source in rule.datasets)):
            found |= rule.settings
    return found


def settings_by_target(preset: str, protocol: str, method: str, target: str) -> dict[str, Any]:
    """What the authors chose by the data set tested on; empty in `fair`."""
    if preset != "paper" or protocol not in TRANSFER:
        return {}
    return TABLE.get(method, Presets()).by_target.get(target, {})
