"""The progress of training: epoch, loss, images per second, time left."""

from __future__ import annotations

from fewclip.workers.progress import Progress


class ProgressBar(Progress):
    """Of `images` images in all epochs together."""

    def __init__(self, title: str, epochs: int, images: int, *, shown: bool) -> None:
        super().__init__(title, images, "images", shown=shown)
        self.epochs = epochs
        self.loss: float | None = None

    def report(self, epoch: int, images: int, loss: float) -> None:
        """One step is done; the loss shown is a running mean."""
        if self.loss is None:  # the first step, which after an interruption is not that of the first epoch
            self.update(self.total * (epoch - 1) // self.epochs)
        self.loss = loss if self.loss is None else 0.95 * self.loss + 0.05 * loss
        self.update(self.done + images, f"epoch {epoch}/{self.epochs}, loss {self.loss:.3f}")
