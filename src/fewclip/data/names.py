"""Class names: what one may hold, what makes two the same, and which of one list is which of another."""

from __future__ import annotations

import unicodedata
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fewclip.errors import PromptError

if TYPE_CHECKING:
    pass


LONGEST = 300
"""Characters of a class name; far more than any context holds."""


UNREADABLE = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories that no name holds: controls and escapes, halves of characters, ends of lines and paragraphs."""


TURNS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that turn the direction of what follows, so that a name is shown as another."""


def key(name: str) -> str:
    """What makes two names the same prompt: case, blanks, underscores and how accents are composed don't count."""
    return " ".join(unicodedata.normalize("NFC", name.replace("_", " ")).lower().split())


def check_names(names: Sequence[str], *, where: str, known: Sequence[str] = (), repeats: bool = False) -> None:
    """Refuse names that are empty, hold control characters or turn the direction of text, are too long, or the same prompt
    as another or one of `known`.

    With `repeats` names may be equal, as two pairs of ImageNet's are.

    Raises:
        PromptError
    """
    seen = {key(name): name for name in known}
    for name in names:
        if not isinstance(name, str):
            raise PromptError(f"A class name of {where} is {name!r}: expected text.")
        if len(name) > LONGEST:
            raise PromptError(
                f"A class name of {where} has {len(name)} characters ({name[:40]!r}…): {LONGEST} is the most."
            )
        if not key(name) or any(unicodedata.category(c) in UNREADABLE or c in TURNS for c in name):
            raise PromptError(
                f"The class name {name!r} of {where} is empty or holds control characters: give it a name that can be read."
            )
        if key(name) in seen and not repeats:
            raise PromptError(
                f"The class names {seen[key(name)]!r} and {name!r} of {where} make the same prompt, so no image could "
                "tell them apart: merge the two classes or rename one."
            )
        seen[key(name)] = name


def match(names: Sequence[str], wanted: Sequence[str]) -> list[int | None]:
    """For each of `names` its place in `wanted`, or None. Of equal names the first is the first, the second the second."""
    places: defaultdict[str, deque[int]] = defaultdict(deque)
    for place, name in enumerate(wanted):
        places[name].append(place)
    return [places[name].popleft() if places[name] else None for name in names]
