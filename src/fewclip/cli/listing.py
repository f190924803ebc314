"""`fewclip methods`, `fewclip backbones`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import tyro

from fewclip.cli.table import print_table


@dataclass(frozen=True)
class List:
    json: bool = False
    """Print JSON."""


def methods(arguments: list[str]) -> int:
    """The methods that can be trained."""
    from fewclip.methods import METHODS

    rows = [
        {
            "method": m.name,
            "title": m.title,
            "paper": m.paper.rpartition(" ")[0],
            "year": m.paper.rpartition(" ")[2],
            "trains": m.trained,
            "parameters": m.parameters_b16,
            "new classes": m.new_classes or "none",
        }
        for m in METHODS.values()
    ]
    return _print(
        "methods",
        methods.__doc__,
        arguments,
        rows,
        "Parameters on ViT-B/16. fewclip fit DATA -o OUT --method NAME --help: settings. docs/methods.md: what each does.",
    )


def backbones(arguments: list[str]) -> int:
    """The CLIP models that can be adapted."""
    from fewclip.clip.load import ALIASES, EMBEDDED

    rows = [{"name": name, "where": "embedded", "what": "a small CLIP of icons (docs/icons.md)"} for name in EMBEDDED]
    rows += [{"name": name, "where": "hub", "what": hub} for name, hub in ALIASES.items()]
    rows += [
        {"name": "ORG/NAME", "where": "hub", "what": "any CLIPModel or open_clip repository with a vision transformer"},
        {"name": "PATH", "where": "local", "what": "OpenAI's .pt, state dict, .safetensors, HF or open_clip folder"},
    ]
    return _print("backbones", backbones.__doc__, arguments, rows, "Give one with --backbone.")


def _print(command: str, text: str | None, arguments: list[str], rows: list[dict[str, Any]], foot: str) -> int:
    options = tyro.cli(List, prog=f"fewclip {command}", description=text, args=arguments)
    if options.json:
        print(json.dumps(rows, ensure_ascii=False))
        return 0
    print_table(rows, wrap=True)
    print(foot)
    return 0
