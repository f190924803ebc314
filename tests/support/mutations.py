"""What fuzzing feeds to readers: arbitrary bytes, and valid files with bits flipped, cut, spliced or said otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

NUMBERS = (
    b"\0",
    b"\xff",
    b"\0" * 4,
    b"\xff" * 4,
    b"\xff" * 8,
    b"\x7f" + b"\xff" * 7,
    b"\0" * 7 + b"\x80",
    b"\n",
    b"..",
)
TEXT = st.text(st.characters(exclude_categories=()), max_size=8)  # with surrogates
NAMES = st.sampled_from(
    ["", ".", "..", "../x", "/etc/passwd", "~nobody/x", "a/../../b", "\0", "\ud800", "x" * 5000, "\x1b[31m", "\u202eb"]
)
ODD = st.sampled_from(
    [None, True, 0, -1, 1, 3, 10**6, 10**12, -(10**12), 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", "1"]
)
JSON = st.recursive(
    ODD | NAMES | TEXT | st.integers() | st.floats(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


class Seeds(tuple[Any, ...]):
    """Valid files, or what they say; many and long, so not shown."""

    def __repr__(self) -> str:
        return f"<{len(self)} seeds>"


@st.composite
def mutated(draw: Callable[[Any], Any], files: Seeds, most: int = 6) -> bytes:
    """One of the files, or a splice of two, after up to `most` small changes."""
    data = bytearray(files[draw(st.integers(0, len(files) - 1))])
    for _ in range(draw(st.integers(0, most))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.integers(0, 6))
        if kind <= 1 and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == 2:
            number = draw(st.sampled_from(NUMBERS))
            data[at : at + len(number)] = number
        elif kind == 3:
            data[at:at] = draw(st.binary(max_size=9))
        elif kind == 4:
            del data[at : at + draw(st.integers(1, 40))]
        elif kind == 5:
            other = files[draw(st.integers(0, len(files) - 1))]
            data[at:] = other[draw(st.integers(0, len(other))) :]
        else:
            del data[at:]
    return bytes(data)


def like(files: Sequence[bytes], most: int = 6) -> st.SearchStrategy[bytes]:
    """Bytes like these files, and now and then any bytes."""
    changed = mutated(Seeds(files), most)
    return st.one_of(changed, changed, changed, st.binary(max_size=200))


@st.composite
def altered(draw: Callable[[Any], Any], values: Seeds, most: int = 3) -> bytes:
    """JSON of one of the values with some of its parts replaced, left out or doubled."""
    whole = {"": deepcopy(values[draw(st.integers(0, len(values) - 1))])}
    for _ in range(draw(st.integers(0, most))):
        inner: Any = whole
        name: Any = ""
        for _ in range(draw(st.integers(0, 5))):
            below = inner[name]
            if not isinstance(below, (dict, list)) or not below:
                break
            inner = below
            name = draw(st.sampled_from(sorted(below) if isinstance(below, dict) else range(len(below))))
        kind = draw(st.integers(0, 4))
        if inner is whole and kind > 0:
            continue
        if kind <= 2:
            inner[name] = draw(JSON)
        elif kind == 3:
            del inner[name]
        elif isinstance(inner, list):
            inner.append(inner[name])
        else:
            inner[draw(TEXT)] = inner[name]
    return json.dumps(whole[""]).encode()


def json_like(values: Sequence[Any]) -> st.SearchStrategy[bytes]:
    """JSON like these values, well-formed more often than not, and now and then very deep."""
    files = [json.dumps(value).encode() for value in values]
    deep = st.sampled_from([b"[" * 100_000, b'{"a":' * 100_000])
    changed = altered(Seeds(values))
    return st.one_of(changed, changed, changed, like(files), deep)
