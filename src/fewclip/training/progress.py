"""What a training run reports: an entry per epoch, and a line with epoch, loss, images per second and time left."""

from __future__ import annotations

from typing import TypedDict

from fewclip.workers.progress import Progress


class EpochLog(TypedDict):
    """What is recorded for each epoch."""

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


class ProgressBar(Progress):
    """Of `images` images in all epochs together; each stage has `epochs` of them."""

    def __init__(self, title: str, epochs: int, images: int, *, shown: bool, stages: int = 1) -> None:
        super().__init__(f"{title}, {duration(epochs, stages)}", images, "images", shown=shown)
        self.epochs, self.stages = epochs, stages
        self.loss: float | None = None

    def report(self, epoch: int, images: int, loss: float) -> None:
        """One step is done, in an epoch counted over all stages; the loss shown is a running mean."""
        if self.loss is None:  # the first step, which after an interruption is not that of the first epoch
            self.update(self.total * (epoch - 1) // (self.epochs * self.stages))
        self.loss = loss if self.loss is None else 0.95 * self.loss + 0.05 * loss
        before, within = divmod(epoch - 1, self.epochs)
        stage = f"stage {before + 1}/{self.stages}, " if self.stages > 1 else ""
        self.update(self.done + images, f"{stage}epoch {within + 1}/{self.epochs}, loss {self.loss:.3f}")
