"""Titles as the papers print them, and the order of tables: from the methods, the protocols and the table of data sets."""

from __future__ import annotations

import re
from pathlib import PurePath

from fewclip.bench.protocols import PROTOCOLS
from fewclip.data.benchmarks.table import BENCHMARKS
from fewclip.methods import METHODS

PUBLISHED_AS = {kind.title: name for name, kind in METHODS.items()} | {
    "CLIP": "zero-shot",
    "Linear probe CLIP": "linear-probe",
    "ProVP": "provp",
}
"""Method of the published tables -> its name here: by its title, or by what the tables print instead."""

REFERENCE_BACKBONES = ("vitb16", "vitb16pt", "openaiclipvitbasepatch16", "clipvitbasepatch16")


def method_title(name: str) -> str:
    return METHODS[name].title if name in METHODS else name


def protocol_title(name: str, *, short: bool = False) -> str:
    title = PROTOCOLS[name].title
    return title.partition(":")[0] if short else title


def dataset_title(name: str) -> str:
    """As in the papers; of a folder given by its full path, the last two names."""
    if name in BENCHMARKS:
        return BENCHMARKS[name].title
    return "/".join(PurePath(name).parts[-2:]) if PurePath(name).is_absolute() else name


def method_order(name: str) -> tuple[int, str]:
    return _place(name, list(METHODS))


def dataset_order(name: str) -> tuple[int, str]:
    return _place(name, list(BENCHMARKS))


def _place(name: str, known: list[str]) -> tuple[int, str]:
    """Known names in their order, then the others by the alphabet."""
    return known.index(name) if name in known else len(known), name


def is_reference(backbone: str) -> bool:
    """Whether a backbone is the papers': OpenAI's ViT-B/16."""
    last = backbone.replace("\\", "/").rstrip("/")
    plain = [re.sub(r"[^a-z0-9]", "", text.lower()) for text in (last, last.rsplit("/", 1)[-1])]
    return any(text in REFERENCE_BACKBONES for text in plain)


def slug(text: str) -> str:
    """Letters, digits and dashes: for an id in a page, or a file name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"
