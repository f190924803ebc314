"""Settings are dataclasses, and their values are checked when they are given: types, choices, ranges, names.

    @dataclass(frozen=True, kw_only=True)
    class MySettings(Settings):
        layers: Count = 3
        ratio: Share = 0.5
        kind: Literal["mean", "max"] = "mean"

A range is part of a field's type: `Annotated[float, Range(0, 1)]`, or one of the aliases below.
"""

from __future__ import annotations

import difflib
import functools
import math
import types
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints, is_typeddict

from fewclip.errors import SettingsError

HUGE = 3.4e38
"""Every number is below it, so it is finite and fits the floats that tensors hold."""


class Range(NamedTuple):
    """Numbers from `low` to `high`; `above` and `below` exclude the ends."""

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        return (self.low < value if self.above else self.low <= value) and (
            value < self.high if self.below else value <= self.high
        )

    def __str__(self) -> str:
        low = f"above {self.low}" if self.above else "0 or more" if self.low == 0 else f"at least {self.low}"
        if self.high == math.inf:
            return low
        if not (self.above or self.below):
            return f"between {self.low} and {self.high}"
        return f"{low} and {'below' if self.below else 'at most'} {self.high}"


Count = Annotated[int, Range(1)]
"""A whole number from 1."""
Whole = Annotated[int, Range(0)]
"""A whole number from 0."""
Weight = Annotated[float, Range(0)]
"""A number from 0, such as the weight of a loss."""
Positive = Annotated[float, Range(0, above=True)]
"""A number above 0."""
Share = Annotated[float, Range(0, 1)]
"""A number from 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A dataclass whose values are checked when it is made."""

    def __post_init__(self) -> None:
        """
        Raises:
            SettingsError: a value of another type, not among the choices, or out of its range.
        """
        kind: type = type(self)
        for name in self.__dataclass_fields__:
            object.__setattr__(self, name, _checked(name, getattr(self, name), _hints(kind)[name]))


def _checked(name: str, value: Any, hint: Any) -> Any:
    """The value of a field, numpy scalars as Python's numbers and lists as tuples."""
    if getattr(value, "ndim", None) == 0:
        value = value.item()
    if not fits(value, hint):
        words = [part for part in _parts(hint) if isinstance(part, str)]
        meant = suggestion(value, words) if isinstance(value, str) else ""
        raise SettingsError(f"{name} is {value!r}, but it must be {describe(hint)}{meant}.")
    for limit in _parts(hint):
        if isinstance(limit, Range) and isinstance(value, (int, float)) and not limit.holds(value):
            raise SettingsError(f"{name} is {value!r}, but it must be {limit}.")
    return tuple(value) if isinstance(value, list) else value


def suggestion(given: str, known: Iterable[str]) -> str:
    """` (did you mean 'adamw'?)`, or nothing where no known word is near."""
    near = difflib.get_close_matches(given, list(known), 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type; whole numbers are floats, too, and lists tuples. No number is infinite."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is Annotated:
        return fits(value, inner[0])
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in inner)
    if origin in (Union, types.UnionType):
        return any(fits(value, part) for part in inner)
    if origin in (list, tuple):
        return isinstance(value, (list, origin)) and all(fits(item, inner[0]) for item in value)
    if is_typeddict(hint):
        return isinstance(value, dict) and all(
            name in value and fits(value[name], t) for name, t in _hints(hint).items()
        )
    if origin is dict:
        return isinstance(value, dict) and all(fits(item, inner[1]) for item in value.values())
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < HUGE
    if hint is int:
        return type(value) is int and abs(value) < HUGE
    return type(value) is (type(None) if hint is None else hint)


def describe(hint: Any) -> str:
    """An annotated type in words: what a value must be."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return describe(inner[0])
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin in (Union, types.UnionType):
        return " or ".join(map(describe, inner))
    if origin is tuple:
        return f"a tuple, each item {describe(inner[0])}"
    words = {int: "a whole number", float: "a finite number", str: "text", bool: "True or False", type(None): "None"}
    return words.get(hint, str(hint))


def _parts(hint: Any) -> list[Any]:
    """The innermost parts of an annotated type: types, choices and ranges."""
    inner = get_args(hint)
    return [part for one in inner for part in _parts(one)] if inner else [hint]


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)
