"""Images that are made when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


class LazyImages(Sequence[Any]):
    """`make(row)` for each of `rows`."""

    def __init__(self, make: Callable[[int], Any], rows: Sequence[int]) -> None:
        self.make, self.rows = make, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.take(range(len(self))[index]) if isinstance(index, slice) else self.make(self.rows[index])

    def take(self, indices: Sequence[int]) -> LazyImages:
        """These images, in this order, still to be made."""
        return LazyImages(self.make, [self.rows[i] for i in indices])
