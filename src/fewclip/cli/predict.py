"""`fewclip predict`: a few images to the terminal; any number of them into a file by `fewclip.bulk`."""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fewclip.adapters.adapter import PREDICT_BATCH
from fewclip.bulk import Job, label
from fewclip.bulk.local import Local
from fewclip.bulk.on_ray import Ray
from fewclip.classifier import FewShotClassifier
from fewclip.cli.options import Adapter
from fewclip.clip.preprocess import read_image
from fewclip.data.folder import list_images
from fewclip.errors import DataError, SettingsError, visible


@dataclass(frozen=True, kw_only=True)
class Predict:
    adapter: Adapter
    images: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="[SOURCE]")]
    """Images, or folders of images. With -o also globs such as 'photos/**/*.jpg', lists (.txt, one path a line), Parquet
    with a column of images, WebDataset tars such as 'shards/{000..123}.tar', and folders of tars or Parquet files."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="FILE")] = None
    """Write one row an image to this .parquet, .csv or .jsonl. A run that is stopped goes on with the same command."""
    classes: str | None = None
    """Candidates, separated by commas: known names and new ones may mix. By default the classes of the adapter."""
    top: int | None = None
    """How many classes to give of each image; by default 1, with -o 5."""
    json: bool = False
    """One JSON object a line: image, classes (name and probability), or error."""
    csv: bool = False
    """CSV: image, rank, class, probability, error."""
    probabilities: bool = False
    """-o: also the probabilities of all candidates, in their order."""
    column: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """-o, Parquet: the column of the images, where it is not clear."""
    id_column: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """-o, Parquet: the column of the ids; by default the stored path, else the number of the row."""
    processes: int | None = None
    """-o: processes that share the cores, by default one a core and at most 8, or one a GPU; with ray, actors."""
    executor: Literal["local", "ray"] = "local"
    """-o: processes of this machine, or a Ray cluster (which needs source, adapter and FILE under the same paths)."""
    ray_address: Annotated[str, tyro.conf.arg(metavar="ADDRESS")] = "auto"
    """ray: auto for a running cluster, local for a new one on this machine, or an address."""
    cpus_per_process: float = 1
    """ray: cores of each actor."""
    gpus_per_process: float = 0
    """ray: GPUs of each actor, such as 1 or 0.25."""
    overwrite: bool = False
    """-o: replace a FILE, or an unfinished one, that was made of something else."""
    backbone: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Where the adapter's backbone is now, if not under the name it had."""
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """cpu, cuda, …; by default a GPU if there is one."""


def predict(arguments: list[str]) -> int:
    """Name what images show.

    Exit status: 0 done, 1 some images could not be read."""
    options = tyro.cli(Predict, prog="fewclip predict", description=predict.__doc__, args=arguments)
    if options.json and options.csv:
        raise SettingsError("--json and --csv were both given: choose one.")
    if options.top is not None and options.top < 1:
        raise SettingsError(f"--top is {options.top}, but it must be at least 1.")
    classes = None if options.classes is None else [n.strip() for n in options.classes.split(",") if n.strip()]
    if options.out is not None:
        return predict_file(options, classes)
    _check_unused(options)
    paths = list(expand(options.images))
    classifier = FewShotClassifier.load(options.adapter, backbone=options.backbone, device=options.device)
    names = classifier.adapter_.classes if classes is None else classes
    failed = 0
    write = _writer(options)
    for path, probabilities, error in rows(classifier, paths, names):
        failed += error is not None
        ranked = [] if probabilities is None else probabilities.argsort()[::-1][: options.top or 1]
        write(path, [(names[i], float(probabilities[i])) for i in ranked], error)
    if failed:
        print(f"fewclip predict: {failed} of {len(paths)} images could not be read.", file=sys.stderr)
    return 1 if failed else 0


def _check_unused(options: Predict) -> None:
    """
    Raises:
        SettingsError: an option that means nothing without -o.
    """
    for name in ("probabilities", "column", "id_column", "processes", "overwrite"):
        if getattr(options, name):
            raise SettingsError(f"--{name.replace('_', '-')} is for writing to a file: give -o FILE, too.")
    if options.executor != "local":
        raise SettingsError("--executor ray is for writing to a file: give -o FILE, too.")


def expand(paths: tuple[Path, ...]) -> Iterator[Path]:
    """Files as they are, folders as the images below them.

    Raises:
        DataError: nothing there.
    """
    if not paths:
        raise DataError("No images were given: name image files or folders behind the adapter.")
    for path in paths:
        if path.is_dir():
            found = list_images(path)
            if not found:
                raise DataError(f"The folder {path} holds no images.")
            yield from found
        elif path.exists():
            yield path
        else:
            raise DataError(f"There is no image {path}. (Globs, lists, tars and Parquet need -o FILE.)")


def rows(classifier: FewShotClassifier, paths: list[Path], names: list[str]) -> Iterator[tuple[Path, Any, str | None]]:
    """Path, probabilities, error of each image in order; one unreadable image doesn't stop the others."""
    for start in range(0, len(paths), PREDICT_BATCH):
        part = paths[start : start + PREDICT_BATCH]
        images: list[Any] = []
        errors: dict[int, str] = {}
        for i, path in enumerate(part):
            try:
                images.append(read_image(path))
            except DataError as error:
                errors[i] = str(error)
        found = iter(classifier.predict_proba(images, names))
        for i, path in enumerate(part):
            yield (path, None, errors[i]) if i in errors else (path, next(found), None)


def _writer(options: Predict) -> Any:
    if options.json:

        def as_json(path: Path, ranked: list[tuple[str, float]], error: str | None) -> None:
            classes = [{"class": name, "probability": round(p, 6)} for name, p in ranked]
            print(
                json.dumps(
                    {"image": str(path)} | ({"error": error} if error else {"classes": classes}), ensure_ascii=False
                )
            )

        return as_json
    if options.csv:
        table = csv.writer(sys.stdout)
        table.writerow(["image", "rank", "class", "probability", "error"])

        def as_csv(path: Path, ranked: list[tuple[str, float]], error: str | None) -> None:
            if error:
                table.writerow([path, "", "", "", error])
            for rank, (name, p) in enumerate(ranked, 1):
                table.writerow([path, rank, name, f"{p:.6f}", ""])

        return as_csv

    def as_text(path: Path, ranked: list[tuple[str, float]], error: str | None) -> None:
        print(
            f"{visible(str(path))}  "
            + (f"error: {error}" if error else "  ".join(f"{name} {100 * p:.1f} %" for name, p in ranked))
        )

    return as_text


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
