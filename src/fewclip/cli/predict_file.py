"""`fewclip predict -o FILE`."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from fewclip.errors import SettingsError
from fewclip.scale import Job, label
from fewclip.scale.local import Local
from fewclip.scale.on_ray import Ray

if TYPE_CHECKING:
    from fewclip.cli.predict import Predict

EVERY = 30.0
"""Seconds between two lines of progress where standard error is no terminal."""


def predict_file(options: Predict, classes: list[str] | None) -> int:
    """Predict all images of the sources into one file; the exit status."""
    assert options.out is not None
    if options.json or options.csv:
        raise SettingsError("--json and --csv print, but -o was given: its ending says the format (.jsonl, .csv).")
    job = Job(
        adapter=options.adapter,
        sources=tuple(map(str, options.images)),
        classes=None if classes is None else tuple(classes),
        top=5 if options.top is None else options.top,
        probabilities=options.probabilities,
        column=options.column,
        id_column=options.id_column,
        backbone=options.backbone,
        device=options.device,
    )
    executor = (
        Local(options.processes)
        if options.executor == "local"
        else Ray(options.ray_address, options.processes, options.cpus_per_process, options.gpus_per_process)
    )
    progress = Progress()
    done = label(job, options.out, executor=executor, overwrite=options.overwrite, report=progress.report)
    progress.end()
    if done.repeated:
        print(f"{done.repeated:,} paths were named more than once; each is one row.", file=sys.stderr)
    said = f"{options.out}: {done.rows:,} rows"
    if done.errors:
        said += f", {done.errors:,} of them images that could not be read (column error)"
    new = done.rows - done.before
    print(f"{said}; {progress.rate(new)}." if new else f"{said}; all of them were there already.")
    return 1 if done.errors else 0


class Progress:
    """Images done, images a second, time left, on standard error."""

    def __init__(self) -> None:
        self.started = self.shown = time.monotonic()
        self.start: int | None = None
        self.terminal = sys.stderr.isatty()

    def report(self, done: int, images: int) -> None:
        now = time.monotonic()
        if self.start is None:
            self.start, self.started = done, now
            if done:
                print(f"{done:,} of {images:,} images are there already.", file=sys.stderr)
        if now - self.shown < (0.5 if self.terminal else EVERY):
            return
        self.shown = now
        new = done - self.start
        left = f", {(images - done) * (now - self.started) / new / 60:.0f} min left" if new else ""
        text = f"{done:,} of {images:,} images, {self.rate(new)}{left}"
        print(
            f"\r\x1b[K{text}" if self.terminal else text, end="" if self.terminal else "\n", file=sys.stderr, flush=True
        )

    def end(self) -> None:
        if self.terminal:
            print("\r\x1b[K", end="", file=sys.stderr)

    def rate(self, images: int) -> str:
        return f"{images / max(time.monotonic() - self.started, 1e-9):.1f} images/s"
