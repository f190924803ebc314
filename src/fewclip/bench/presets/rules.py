"""What a preset is made of: rules, each with settings and where they apply."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

HALVES = ("base-to-novel", "open")
FEW_SHOT = ("few-shot",)
TRANSFER = ("cross-dataset", "domain-generalization")


@dataclass(frozen=True)
class Rule:
    """Settings for some protocols, data sets and shots (none named: all); a later rule overrides."""

    settings: dict[str, Any]
    protocols: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    shots: tuple[int, ...] = ()


@dataclass(frozen=True)
class Presets:
    """The published settings of one method: rules for training, and settings that the authors chose by the data set tested on."""

    rules: tuple[Rule, ...] = ()
    by_target: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of the transfer protocols, `paper` only: reported beside the usual prediction, never in its place."""
