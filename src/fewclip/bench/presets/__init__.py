"""Settings of the protocols: what the authors published, looked up in one table.

`fair` trains every data set with the same settings, those of the protocol and otherwise the method's defaults, so that
nothing is chosen by looking at a data set. `paper` adds what the authors' published code sets for each data set.
"""

from __future__ import annotations

from typing import Any

from fewclip.bench.presets.rules import TRANSFER, Presets
from fewclip.bench.presets.table import TABLE
from fewclip.errors import SettingsError

__all__ = ["PRESETS", "TABLE", "settings_by_target", "settings_for"]

PRESETS = ("fair", "paper")


def settings_for(preset: str, protocol: str, method: str, source: str, shots: int | None = 16) -> dict[str, Any]:
    """Settings of method and training that differ from the defaults. In `paper`, what the authors set for the data set
    trained on overrides what they set for the protocol.

    Raises:
        SettingsError: an unknown preset.
    """
    if preset not in PRESETS:
        raise SettingsError(f"There is no preset {preset!r}: choose one of {', '.join(PRESETS)}.")
    settings: dict[str, Any] = {}
    for rule in TABLE.get(method, Presets()).rules:
        here = not rule.protocols or protocol in rule.protocols
        this = not rule.datasets or (preset == "paper" and source in rule.datasets)
        if here and this and (not rule.shots or shots in rule.shots):
            settings |= rule.settings
    return settings


def settings_by_target(preset: str, protocol: str, method: str, target: str) -> dict[str, Any]:
    """What the authors chose by the data set tested on; empty in `fair`."""
    if preset != "paper" or protocol not in TRANSFER:
        return {}
    return TABLE.get(method, Presets()).by_target.get(target, {})
