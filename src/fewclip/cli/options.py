"""Options that several commands have."""

from __future__ import annotations

from dataclasses import make_dataclass
from typing import Annotated, Any

import tyro

from fewclip.errors import SettingsError

Adapter = Annotated[
    str,
    tyro.conf.Positional,
    tyro.conf.arg(
        metavar="ADAPTER",
        help="Folder that `fewclip fit` wrote, or USER/NAME[@REVISION] on the Hugging Face hub; a local folder of that name "
        "takes precedence.",
    ),
]


def parse(command: Any, arguments: list[str], first: type, *others: Any) -> list[Any]:
    """The options of a command that are spread over several dataclasses: an object of `first`, and of the type of each of
    `others`, which are the defaults."""
    flat = tyro.conf.arg(name="")
    fields: list[Any] = [("first", Annotated[first, flat])]
    fields += [(f"other{n}", Annotated[type(default), flat], default) for n, default in enumerate(others)]
    kind: Any = make_dataclass("Options", fields)
    options = tyro.cli(kind, prog=f"fewclip {command.__name__}", description=command.__doc__, args=arguments)
    return list(vars(options).values())


def listed(text: str) -> tuple[str, ...]:
    """The parts of an option that takes several, separated by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def names(text: str) -> tuple[str, ...]:
    """The same, each once."""
    return tuple(dict.fromkeys(listed(text)))


def numbers(what: str, text: str) -> tuple[int, ...]:
    """The whole numbers of an option that takes several.

    Raises:
        SettingsError: anything else, or shots below 1.
    """
    try:
        values = tuple(int(part) for part in names(text))
    except ValueError:
        raise SettingsError(f"--{what} is {text!r}, but it must be whole numbers separated by commas: 1,2,3.") from None
    if what == "shots" and min(values, default=1) < 1:
        raise SettingsError(f"--{what} is {text!r}, but each must be at least 1.")
    return values
