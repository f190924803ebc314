"""How far work has got, on standard error: a bar on a terminal, a line every half minute elsewhere.

Of training, sweeps and bulk prediction. It is in this room because all three depend on it.
"""

from __future__ import annotations

import sys
import time
from typing import Any, Self

EVERY = 30.0
"""Seconds between two lines where standard error is not a terminal."""


class Progress:
    """`total` things to do; `unit` is their name in the plural. Shows nothing if `shown` is false."""

    def __init__(self, title: str, total: int, unit: str, *, shown: bool = True) -> None:
        self.total, self.unit, self.shown = total, unit, shown
        self.start: int | None = None
        """What was done at the first update, such as by an earlier run; it does not count for the rate."""
        self.done, self.began, self.last = 0, time.monotonic(), time.monotonic()
        self.bar: Any = None
        if shown and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            state = TextColumn("{task.fields[state]}", markup=False)
            columns = (TextColumn("[bold]{task.description}"), BarColumn(20), state)
            self.bar = Bar(*columns, TimeRemainingColumn(), console=Console(file=sys.stderr))
            self.task = self.bar.add_task(title, total=total, state="")

    def __enter__(self) -> Self:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def update(self, done: int, state: str = "") -> None:
        """`done` of all are done; `state` is shown besides."""
        now, self.done = time.monotonic(), done
        if self.start is None:
            self.start, self.began = done, now
        if self.bar is not None:
            self.bar.update(self.task, completed=done, total=self.total, state=f"{self._counted()}  {state}".rstrip())
        elif self.shown and now - self.last >= EVERY:
            self.last = now
            seconds = (self.total - done) * (now - self.began) / (done - self.start) if done > self.start else None
            left = "" if seconds is None else f"{seconds / 60:.0f} min left"
            print(", ".join(filter(None, (self._counted(), left, state))), file=sys.stderr, flush=True)

    def print(self, line: str) -> None:
        """A line on standard error that stays, above the bar."""
        if self.bar is not None:
            self.bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        elif self.shown:
            print(line, file=sys.stderr, flush=True)

    def rate(self) -> str:
        """What was done per second, or per minute, since the first update."""
        rate = (self.done - (self.start or 0)) / max(time.monotonic() - self.began, 1e-9)
        return f"{rate:.1f} {self.unit}/s" if rate >= 1 else f"{60 * rate:.1f} {self.unit}/min"

    def _counted(self) -> str:
        counted = f"{self.done:,} of {self.total:,} {self.unit}"
        return f"{counted}, {self.rate()}" if self.done > (self.start or 0) else counted
