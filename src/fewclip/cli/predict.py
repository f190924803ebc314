"""`fewclip predict`: a few images to the terminal, or any number of them into a file by `fewclip.bulk`."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from torch import Tensor

from fewclip.adapters.adapter import PREDICT_BATCH
from fewclip.adapters.adapter import Adapter as Loaded
from fewclip.bulk import Job, label
from fewclip.bulk.local import Local
from fewclip.bulk.on_ray import Ray
from fewclip.cli.options import Adapter, listed
from fewclip.data.folder import list_images
from fewclip.errors import DataError, SettingsError, visible
from fewclip.workers.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Predict:
    adapter: Adapter
    images: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="[SOURCE]")]
    """Images, or folders of images. With -o also globs such as 'photos/**/*.jpg', lists (.txt, one path per line), Parquet
    files with images, WebDataset tars such as 'shards/{000..123}.tar', and folders of tars or Parquet files."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="FILE")] = None
    """Write one row per image to this .parquet, .csv or .jsonl. The same command resumes a run that was stopped."""
    classes: str | None = None
    """Candidates, separated by commas; known and new names may be mixed. By default the classes of the adapter."""
    top: int | None = None
    """Number of classes to report per image; by default 1, with -o 5."""
    json: bool = False
    """One JSON object per line: image, classes (name and probability), or error."""
    csv: bool = False
    """CSV: image, rank, class, probability, error."""
    probabilities: bool = False
    """-o: also the probabilities of all candidates, in their order."""
    column: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """-o, Parquet: the column of the images, where that is not clear."""
    id_column: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """-o, Parquet: the column of the ids; by default the stored path, else the row number."""
    processes: int | None = None
    """-o: processes, which share the cores; by default one per core, at most 8, or one per GPU. With ray: actors."""
    executor: Literal["local", "ray"] = "local"
    """-o: processes of this machine, or a Ray cluster (which needs source, adapter and FILE under the same paths)."""
    ray_address: Annotated[str, tyro.conf.arg(metavar="ADDRESS")] = "auto"
    """ray: auto for a running cluster, local for a new one on this machine, or an address."""
    cpus_per_process: float = 1
    """ray: cores of each actor."""
    gpus_per_process: float = 0
    """ray: GPUs of each actor, such as 1 or 0.25."""
    overwrite: bool = False
    """-o: replace FILE, or an unfinished one, if it was made from something else."""
    backbone: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Where the adapter's backbone is now, if not where it was when the adapter was trained."""
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """cpu, cuda, …; by default a GPU if there is one."""


ONLY_FILES = ("probabilities", "column", "id_column", "processes", "executor", "overwrite")
"""Options that mean nothing without -o."""


def predict(arguments: list[str]) -> int:
    """Predict the classes of images.

    Exit status: 0 done, 1 some images could not be read."""
    options = tyro.cli(Predict, prog="fewclip predict", description=predict.__doc__, args=arguments)
    if options.json and options.csv:
        raise SettingsError("--json and --csv were both given: choose one.")
    if options.top is not None and options.top < 1:
        raise SettingsError(f"--top is {options.top}, but it must be at least 1.")
    return print_rows(options) if options.out is None else write_file(options, options.out)


def candidates(options: Predict) -> tuple[str, ...] | None:
    """The classes to choose from, if any were named."""
    return None if options.classes is None else listed(options.classes)


# To the terminal


@dataclass(frozen=True)
class Row:
    path: Path
    ranked: list[tuple[str, float]] = field(default_factory=list)
    """The most probable classes and their probabilities."""
    error: str | None = None


def print_rows(options: Predict) -> int:
    for name in ONLY_FILES:
        if getattr(options, name) != getattr(Predict, name):
            raise SettingsError(f"--{name.replace('_', '-')} is for writing to a file: give -o FILE as well.")
    paths = list(expand(options.images))
    adapter = Loaded.load(options.adapter, backbone=options.backbone, device=options.device)
    write = as_json if options.json else csv_writer() if options.csv else as_text
    failed = 0
    for row in rows(adapter, paths, candidates(options), options.top or 1):
        write(row)
        failed += row.error is not None
    if failed:
        print(f"fewclip predict: {failed} of {len(paths)} images could not be read.", file=sys.stderr)
    return 1 if failed else 0


def expand(paths: tuple[Path, ...]) -> Iterator[Path]:
    """Files as they are, folders as the images in them.

    Raises:
        DataError: there is nothing there.
    """
    if not paths:
        raise DataError("No images were given: name image files or folders after the adapter.")
    for path in paths:
        if path.is_dir():
            images = list_images(path)
            if not images:
                raise DataError(f"The folder {path} holds no images.")
            yield from images
        elif path.exists():
            yield path
        else:
            raise DataError(f"There is no image {path}. (Globs, lists, tars and Parquet need -o FILE.)")


def rows(adapter: Loaded, paths: list[Path], classes: tuple[str, ...] | None, top: int) -> Iterator[Row]:
    """One row per image, in order. An image that can't be read is a row with an error and does not stop the others."""
    names = adapter.classes if classes is None else list(classes)
    encoded = adapter.candidates(classes)
    for start in range(0, len(paths), PREDICT_BATCH):
        batch = [pixels_or_error(adapter, path) for path in paths[start : start + PREDICT_BATCH]]
        pixels = [one for one in batch if isinstance(one, Tensor)]
        scores = iter(adapter.pixel_scores(torch.stack(pixels), encoded) if pixels else ())
        for path, one in zip(paths[start:], batch, strict=False):
            if isinstance(one, str):
                yield Row(path, error=one)
            else:
                best = next(scores).softmax(dim=-1).sort(descending=True, stable=True)
                ranked = zip(best.indices[:top].tolist(), best.values[:top].tolist(), strict=True)
                yield Row(path, [(names[i], share) for i, share in ranked])


def pixels_or_error(adapter: Loaded, path: Path) -> Tensor | str:
    try:
        return adapter.clip.preprocess(path)
    except DataError as error:
        return str(error)


def as_text(row: Row) -> None:
    answer = f"error: {row.error}" if row.error else "  ".join(f"{name} {100 * p:.1f} %" for name, p in row.ranked)
    print(f"{visible(str(row.path))}  {answer}")


def as_json(row: Row) -> None:
    classes = [{"class": name, "probability": round(p, 6)} for name, p in row.ranked]
    answer = {"error": row.error} if row.error else {"classes": classes}
    print(json.dumps({"image": str(row.path)} | answer, ensure_ascii=False))


def csv_writer() -> Callable[[Row], None]:
    table = csv.writer(sys.stdout)
    table.writerow(["image", "rank", "class", "probability", "error"])

    def as_csv(row: Row) -> None:
        if row.error:
            table.writerow([row.path, "", "", "", row.error])
        for rank, (name, p) in enumerate(row.ranked, 1):
            table.writerow([row.path, rank, name, f"{p:.6f}", ""])

    return as_csv


# Into a file


def write_file(options: Predict, out: Path) -> int:
    if options.json or options.csv:
        raise SettingsError("--json and --csv print, but -o was given: its ending chooses the format (.jsonl, .csv).")
    job = Job(
        adapter=options.adapter,
        sources=tuple(map(str, options.images)),
        classes=candidates(options),
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
    with Progress("predict", 0, "images") as progress:

        def report(done: int, images: int) -> None:
            if progress.start is None and done:
                progress.print(f"{done:,} of {images:,} images are already done.")
            progress.total = images
            progress.update(done)

        done = label(job, out, executor=executor, overwrite=options.overwrite, report=report)
    if done.repeated:
        print(f"{done.repeated:,} paths were named more than once; each is one row.", file=sys.stderr)
    unread = f", {done.errors:,} of them for images that could not be read (column error)" if done.errors else ""
    speed = progress.rate() if done.rows > done.before else "all of them were already done"
    print(f"{out}: {done.rows:,} rows{unread}; {speed}.")
    return 1 if done.errors else 0
