"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import tyro

Adapter = Annotated[
    str,
    tyro.conf.Positional,
    tyro.conf.arg(
        metavar="ADAPTER",
        help="Folder that `fewclip fit` wrote, or USER/NAME[@REVISION] on the Hugging Face hub; a local folder of that name "
        "goes first.",
    ),
]


def listed(text: str) -> tuple[str, ...]:
    """The parts of an option that takes several, separated by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
