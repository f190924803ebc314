"""The methods by name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from fewclip.errors import SettingsError
from fewclip.methods.base import Method
from fewclip.methods.clip_adapter import CLIPAdapter
from fewclip.methods.clip_lora import CLIPLoRA
from fewclip.methods.cocoop import CoCoOp
from fewclip.methods.coop import CoOp
from fewclip.methods.kgcoop import KgCoOp
from fewclip.methods.linear_probe import LinearProbe
from fewclip.methods.maple import MaPLe
from fewclip.methods.metaprompt import MetaPrompt
from fewclip.methods.mma import MMA
from fewclip.methods.mmrl import MMRL
from fewclip.methods.mmrlpp import MMRLpp
from fewclip.methods.plot import PLOT
from fewclip.methods.proda import ProDA
from fewclip.methods.prograd import ProGrad
from fewclip.methods.promptsrc import PromptSRC
from fewclip.methods.provp import ProVP
from fewclip.methods.rpo import RPO
from fewclip.methods.settings import suggestion
from fewclip.methods.tcp import TCP
from fewclip.methods.tip_adapter import TipAdapter, TipAdapterF
from fewclip.methods.zero_shot import ZeroShot

KINDS: tuple[type[Method], ...] = (
    ZeroShot,
    # features and classifiers
    LinearProbe,
    CLIPAdapter,
    TipAdapter,
    TipAdapterF,
    # context in the prompt
    CoOp,
    CoCoOp,
    KgCoOp,
    ProGrad,
    ProDA,
    PLOT,
    TCP,
    # tokens in the towers
    ProVP,
    RPO,
    MaPLe,
    PromptSRC,
    MetaPrompt,
    # beside the towers' weights
    MMA,
    CLIPLoRA,
    # representation space
    MMRL,
    MMRLpp,
)
METHODS: dict[str, type[Method]] = {method.name: method for method in KINDS}


def find(name: str) -> type[Method]:
    """The method of that name.

    Raises:
        SettingsError: there is none.
    """
    if not isinstance(name, str) or name not in METHODS:
        raise SettingsError(
            f"There is no method {name!r}{suggestion(str(name), METHODS)}: choose one of {', '.join(METHODS)}."
        )
    return METHODS[name]


def check_chooses(name: str) -> None:
    """Refuse validation images for a method that chooses nothing by them.

    Raises:
        SettingsError
    """
    if not find(name).chooses:
        those = ", ".join(f"{method.name} ({method.chooses})" for method in KINDS if method.chooses)
        raise SettingsError(f"{name} does not use validation images, only these methods do: {those}. Leave val out.")


def make_settings(name: str, values: dict[str, Any]) -> Any:
    """The settings of a method from a dict of those that differ from its defaults.

    Raises:
        SettingsError: a name that the method doesn't have, or a value of another type, not among the choices, or out of
            its range.
    """
    kind = find(name).Settings
    known = [f.name for f in fields(kind)]
    for key in values:
        if key not in known:
            raise SettingsError(
                f"{name} has no setting {key!r}{suggestion(key, known)}: it has {', '.join(known) or 'none'}."
            )
    return kind(**values)
