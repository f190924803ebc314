"""Which class of one list is which of another, by name, where a name may occur more than once."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence


def match(names: Sequence[str], wanted: Sequence[str]) -> list[int | None]:
    """For each of `names` its place in `wanted`, or None. Of equal names the first is the first, the second the second."""
    places: defaultdict[str, deque[int]] = defaultdict(deque)
    for place, name in enumerate(wanted):
        places[name].append(place)
    return [places[name].popleft() if places[name] else None for name in names]
