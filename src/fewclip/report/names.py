"""Names as they stand in the papers, and the order of tables."""

from __future__ import annotations

import re
from pathlib import PurePath

from fewclip.data.benchmarks.table import BENCHMARKS, named

METHODS = {
    "zero-shot": "Zero-shot CLIP",
    "linear-probe": "Linear probe",
    "coop": "CoOp",
    "cocoop": "CoCoOp",
    "proda": "ProDA",
    "kgcoop": "KgCoOp",
    "prograd": "ProGrad",
    "plot": "PLOT",
    "rpo": "RPO",
    "clip-adapter": "CLIP-Adapter",
    "tip-adapter": "Tip-Adapter",
    "tip-adapter-f": "Tip-Adapter-F",
    "clip-lora": "CLIP-LoRA",
    "maple": "MaPLe",
    "promptsrc": "PromptSRC",
    "provp": "ProVP",
    "metaprompt": "MetaPrompt",
    "tcp": "TCP",
    "mma": "MMA",
    "mmrl": "MMRL",
    "mmrlpp": "MMRL++",
}
"""Of methods, in the order of columns."""

PROTOCOLS = {
    "base-to-novel": "Base to novel",
    "open": "Open: base and novel together",
    "few-shot": "Few-shot",
    "cross-dataset": "Cross-dataset",
    "domain-generalization": "Domain generalisation",
}

PUBLISHED_AS = {
    "CLIP": "zero-shot",
    "Linear probe CLIP": "linear-probe",
    "CoOp": "coop",
    "CoCoOp": "cocoop",
    "ProDA": "proda",
    "KgCoOp": "kgcoop",
    "MaPLe": "maple",
    "PromptSRC": "promptsrc",
    "ProVP": "provp",
    "MetaPrompt": "metaprompt",
    "TCP": "tcp",
    "MMA": "mma",
    "MMRL": "mmrl",
}
"""Method of the published tables -> ours."""

REFERENCE_BACKBONES = ("vitb16", "vitb16pt", "openaiclipvitbasepatch16", "clipvitbasepatch16")


def method_title(name: str) -> str:
    return METHODS.get(name, name)


def dataset_title(name: str) -> str:
    """As in the papers; of a folder anywhere, its last two names."""
    if name in BENCHMARKS:
        return BENCHMARKS[name].title
    return "/".join(PurePath(name).parts[-2:]) if PurePath(name).is_absolute() else name


def dataset_key(title: str) -> str:
    """The key of a published table's data set."""
    found = named(title)
    return found.key if found else title


def method_order(name: str) -> tuple[int, str]:
    known = list(METHODS)
    return (known.index(name) if name in known else len(known), name)


def dataset_order(name: str) -> tuple[int, str]:
    known = list(BENCHMARKS)
    return (known.index(name) if name in known else len(known), name)


def is_reference(backbone: str) -> bool:
    """Whether a backbone is the papers': OpenAI's ViT-B/16."""
    last = backbone.replace("\\", "/").rstrip("/")
    plain = [re.sub(r"[^a-z0-9]", "", text.lower()) for text in (last, last.rsplit("/", 1)[-1])]
    return any(text in REFERENCE_BACKBONES for text in plain)


def slug(text: str) -> str:
    """Letters, digits and dashes: for an id in a page or a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"
