"""What a training run reports: an entry per epoch, and a progress bar with epoch, loss, images per second and time left."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TypedDict


class EpochLog(TypedDict):
    """What is kept of each epoch."""

    epoch: int
    """Counted from 1 over all stages."""
    lr: float
    """Learning rate of its last step."""
    loss: float
    """Mean loss of its steps."""


def duration(epochs: int, stages: int) -> str:
    """Such as `50 epochs` or `2 stages × 50 epochs`."""
    each = f"{epochs} epoch{'s' if epochs > 1 else ''}"
    return each if stages == 1 else f"{stages} stages × {each}"


class ProgressBar:
    """Shows a run on standard error, if `shown`."""

    def __init__(self, title: str, epochs: int, images: int, *, shown: bool, stages: int = 1) -> None:
        """`epochs` of each stage; `images`: how many are seen over all of them."""
        self.epochs, self.stages, self.shown = epochs, stages, shown
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
        self.task = self.bar.add_task(f"{title}, {duration(epochs, stages)}", total=images, state="")

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
        """One step is done, in an epoch that is counted over all stages; the loss shown is a running mean."""
        if not self.shown:
            return
        self.loss = loss if self.loss is None else 0.95 * self.loss + 0.05 * loss
        speed = self.bar.tasks[0].speed
        rate = f"{speed:.0f} images/s" if speed else ""
        before, within = divmod(epoch - 1, self.epochs)
        stage = f"stage {before + 1}/{self.stages}  " if self.stages > 1 else ""
        state = f"{stage}epoch {within + 1}/{self.epochs}  loss {self.loss:.3f}  {rate}"
        self.bar.update(self.task, advance=images, state=state)
