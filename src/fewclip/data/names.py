"""Class names: what a name may contain, which names are the same, and matching one list of names with another."""

from __future__ import annotations

import unicodedata
from collections import defaultdict, deque
from collections.abc import Sequence

from fewclip.errors import PromptError

LONGEST = 300
"""Characters of a class name; far more than any context holds."""
UNREADABLE = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories that no name may contain: controls and escapes, halves of characters, ends of lines and paragraphs."""
INVISIBLE = (*UNREADABLE, "Cf", "Zs")
"""Categories that show nothing. A name may contain blanks and formatting characters, but not only those."""
TURNS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that turn the direction of what follows, so that a name is shown as a different one."""


def key(name: str) -> str:
    """What makes two names the same prompt: case, blanks, underscores and how accents are composed don't count."""
    return " ".join(unicodedata.normalize("NFC", name.replace("_", " ")).lower().split())


def check_name(name: object, *, where: str) -> None:
    """Refuse a name that is not text, is too long, shows nothing, contains control characters, or turns the direction of text.

    Raises:
        PromptError
    """
    if not isinstance(name, str):
        raise PromptError(f"A class name of {where} is {name!r}: expected text.")
    if len(name) > LONGEST:
        raise PromptError(
            f"A class name of {where} has {len(name)} characters ({name[:40]!r}…): {LONGEST} is the most."
        )
    if any(unicodedata.category(c) in UNREADABLE or c in TURNS for c in name):
        raise PromptError(f"The class name {name!r} of {where} holds control characters: give it a readable name.")
    if all(unicodedata.category(c) in INVISIBLE or c == "_" for c in name):
        raise PromptError(f"The class name {name!r} of {where} has no visible characters: give it a readable name.")


def check_names(names: Sequence[str], *, where: str, known: Sequence[str] = (), repeats: bool = False) -> None:
    """`check_name` for each, and refuse two names that make the same prompt, among themselves or with one of `known`.

    With `repeats` names may be equal, as two pairs of ImageNet's are.

    Raises:
        PromptError
    """
    seen = {key(name): name for name in known}
    for name in names:
        check_name(name, where=where)
        if key(name) in seen and not repeats:
            raise PromptError(
                f"The class names {seen[key(name)]!r} and {name!r} of {where} make the same prompt, so no image could "
                "tell them apart: merge the two classes or rename one."
            )
        seen[key(name)] = name


def new_names(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """Those of the names that are none of the known ones."""
    keys = {key(name) for name in known}
    return [name for name in names if key(name) not in keys]


def match(names: Sequence[str], wanted: Sequence[str]) -> list[int | None]:
    """For each of `names` its place in `wanted`, or None. Of equal names the first gets the first place, and so on."""
    places: defaultdict[str, deque[int]] = defaultdict(deque)
    for place, name in enumerate(wanted):
        places[name].append(place)
    return [places[name].popleft() if places[name] else None for name in names]
