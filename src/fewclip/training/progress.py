"""The progress bar of training: epoch, loss, images a second, time left."""

from __future__ import annotations

import sys
from types import TracebackType


class ProgressBar:
    """Shows a run on standard error; nothing if it is not to be shown."""

    def __init__(self, title: str, epochs: int, images: int, *, shown: bool) -> None:
        self.epochs, self.shown = epochs, shown
        self.loss: float | None = None
        if not shown:
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            console=Console(file=sys.stderr),
        )
        self.task = self.bar.add_task(title, total=images, state="")

    def __enter__(self) -> ProgressBar:
        if self.shown:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.shown:
            self.bar.stop()

    def report(self, epoch: int, images: int, loss: float) -> None:
        """One step is done; the loss shown is a running mean."""
        if not self.shown:
            return
        self.loss = loss if self.loss is None else 0.95 * self.loss + 0.05 * loss
        speed = self.bar.tasks[0].speed
        rate = f"{speed:.0f} images/s" if speed else ""
        state = f"epoch {epoch}/{self.epochs}  loss {self.loss:.3f}  {rate}"
        self.bar.update(self.task, advance=images, state=state)
