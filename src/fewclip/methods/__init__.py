"""The methods by name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from fewclip.errors import SettingsError
from fewclip.methods.base import Method
from fewclip.methods.mmrl import MMRL
from fewclip.methods.mmrlpp import MMRLpp
from fewclip.methods.zero_shot import ZeroShot

METHODS: dict[str, type[Method]] = {method.name: method for method in (ZeroShot, MMRL, MMRLpp)}


def find(name: str) -> type[Method]:
    """The method of that name.

    Raises:
        SettingsError: there is none.
    """
    if name not in METHODS:
        raise SettingsError(f"There is no method {name!r}: choose one of {', '.join(METHODS)}.")
    return METHODS[name]


def make_settings(name: str, values: dict[str, Any]) -> Any:
    """The settings of a method from a dict of those that differ from its defaults.

    Raises:
        SettingsError: a name that the method doesn't have.
    """
    kind = find(name).Settings
    known = [f.name for f in fields(kind)]
    for key in values:
        if key not in known:
            raise SettingsError(f"{name} has no setting {key!r}: it has {', '.join(known) or 'none'}.")
    return kind(**values)
