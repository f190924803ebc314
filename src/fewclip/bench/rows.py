"""Result rows: what a run measured, kept as JSON Lines in a file that is only ever appended to.

A run is one training; its rows are written together, in one piece. Each names its run and how many rows that run has, so
that a run whose writing was cut off counts as unfinished and is repeated. Tables, plots and resuming are all made from rows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict, cast

from fewclip.adapters.adapter import Adapter
from fewclip.bench.evaluation import Result
from fewclip.bench.machine import PeakMemory, machine, now, versions
from fewclip.bench.run import Run
from fewclip.clip.load import fingerprint
from fewclip.errors import DataError, OutputError
from fewclip.files.read import parse_json, read_bytes
from fewclip.files.write import make_folder, sync_folder

ROWS = "rows.jsonl"
LARGEST = 2 << 30
"""Most bytes of a file of rows."""


class Row(TypedDict, total=False):
    """One result. Written by `measured_rows` and `failed_row` only; a failed run has one row, without what was not
    measured. Rows of older versions lack newer fields, and fields that are not listed here are kept as they are."""

    run: str  # name of the run, the same whenever the same thing is run
    row: int  # which of the run's rows this is, counted from 1
    rows: int  # how many rows the run has
    status: str  # done, or failed
    error: str | None  # of a failed run: what went wrong
    note: str | None  # what a reader must know of how the run went, such as a checkpoint that could not be used
    protocol: str  # base-to-novel, open, few-shot, cross-dataset or domain-generalization
    preset: str  # fair or paper
    method: str  # name of the method
    settings: dict[str, Any]  # the method's settings
    training: dict[str, Any]  # settings of training
    ablation: str | None  # name of the ablation
    variant: str | None  # which variant of the ablation, or which way to predict (null: the usual one)
    backbone: str  # the CLIP that was adapted
    backbone_fingerprint: str  # checksum of its weights
    source: str  # data set trained on
    dataset: str  # data set tested on
    template: str | None  # prompt template of the test
    split: str  # classes of the test images: base, novel or all
    candidates: str  # classes to choose from: "split" (those of the split), or "all"
    seed: int  # seed of picks, initial values, order and augmentation
    shots: int | None  # training images per class; null: all
    train_images: int  # images trained on
    val_images: int  # validation images that settings were chosen by, as in the method's published runs; 0: none
    chosen: dict[str, float]  # the settings that they chose, by name
    images: int  # images tested
    classes: int  # number of candidate classes
    accuracy: float  # per cent of the images that were classified correctly
    mean_class_accuracy: float  # mean over classes of the accuracy of each
    per_class: dict[str, float]  # class name -> accuracy
    calibration_error: float  # expected calibration error in points: 15 equal bins of the highest probability
    confusions: list[Any]  # [true class, predicted class, images], the most frequent mistakes first
    examples: list[dict[str, Any]]  # key (of the image in its data set), truth, guess, probability; then some mistakes
    parameters: int  # trained parameters
    train_seconds: float  # time of training
    predict_seconds: float  # time to predict all images of this row, reading them included
    peak_memory_mb: float | None  # highest memory of the process in this run
    gpu_memory_mb: float | None  # highest memory on the GPU
    versions: dict[str, str]  # of fewclip, torch and python
    machine: dict[str, Any]  # processor, cores, threads in use, GPU
    finished: str  # when, in UTC


MEASURED = (
    "note",
    "train_seconds",
    "predict_seconds",
    "peak_memory_mb",
    "gpu_memory_mb",
    "versions",
    "machine",
    "finished",
)
"""Fields that differ from one execution to the next; all others of a run follow from what it is."""
FREE_SETTINGS = ("cache_mb", "checkpoint_seconds")
"""Training settings that change no result and so are not in rows."""


def tested_row(
    run: Run,
    adapter: Adapter,
    result: Result,
    memory: PeakMemory,
    *,
    dataset: str,
    template: str,
    candidates: str,
    variant: str | None,
) -> Row:
    """One test of a run, as a row without the head that `measured_rows` adds when the run has ended."""
    measured = cast("Row", {name: value for name, value in result.as_dict().items() if name != "seconds"})
    return {
        **_described(run),
        "settings": asdict(adapter.method.settings),
        "training": {k: v for k, v in adapter.training.settings.items() if k not in FREE_SETTINGS},
        "variant": variant or run.variant,
        "backbone_fingerprint": fingerprint(adapter.clip),
        "dataset": dataset,
        "template": template,
        "candidates": candidates,
        "train_images": adapter.training.images,
        "val_images": adapter.training.val_images,
        "chosen": adapter.training.chosen,
        **measured,
        "parameters": adapter.parameters,
        "train_seconds": adapter.training.seconds,
        "predict_seconds": result.seconds,
        "peak_memory_mb": memory.mb(),
        "gpu_memory_mb": memory.gpu_mb(),
    }


def measured_rows(run: Run, tested: Sequence[Row], note: str | None) -> list[Row]:
    """All rows of a run that has ended."""
    head: Row = {"run": run.name, "rows": len(tested), "status": "done", "error": None, "note": note}
    return [{**head, "row": number, **row} for number, row in enumerate(tested, 1)]


def failed_row(run: Run, error: str) -> Row:
    """The row of a run that failed."""
    head: Row = {"run": run.name, "row": 1, "rows": 1, "status": "failed", "error": error}
    asked: Row = {"settings": run.settings, "template": run.template, "dataset": run.source}
    return {**head, **_described(run), **asked}


def _described(run: Run) -> Row:
    """What any row of a run has."""
    return {
        "protocol": run.protocol,
        "preset": run.preset,
        "method": run.method,
        "ablation": run.ablation,
        "variant": run.variant,
        "backbone": run.backbone,
        "source": run.source,
        "seed": run.seed,
        "shots": run.shots,
        "versions": versions(),
        "machine": machine(),
        "finished": now(),
    }


def read_rows(place: str | Path) -> list[Row]:
    """The rows of all complete runs, by run. Of a run that was done twice the last rows count, of one that failed only if
    it never succeeded. A last line that was cut off is skipped; fields that this version does not know are kept.

    Raises:
        DataError: no such file, or a line that is not a row.
    """
    path = Path(place)
    if os.path.isdir(path) or path.suffix != ".jsonl":
        path /= ROWS
    if not os.path.isfile(path):
        raise DataError(f"There are no results at {path}: make some with `fewclip bench … --out {Path(place)}`.")
    # A run may have been tried several times: each attempt begins with its first row.
    attempts: dict[str, list[list[Row]]] = {}
    try:
        lines = read_bytes(path, LARGEST).split(b"\n")
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}.") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = cast("Row", parse_json(line))
            run, part = row["run"], row["row"]
            if [type(row["run"]), type(row["row"]), type(row["rows"]), type(row["status"])] != [str, int, int, str]:
                raise ValueError("its first fields have the wrong types")
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):  # no newline after it: its writing was cut off
                continue
            raise DataError(f"Line {number} of {path} is not a result row: delete it, or restore the file.") from error
        tries = attempts.setdefault(run, [])
        if part == 1 or not tries:
            tries.append([])
        tries[-1].append(row)
    # An attempt counts if all its rows are there, a failed one only if none succeeded.
    kept: list[Row] = []
    for tries in attempts.values():
        complete = [rows for rows in tries if [row["row"] for row in rows] == list(range(1, len(rows) + 1))]
        complete = [rows for rows in complete if rows[0]["rows"] == len(rows)]
        done = [rows for rows in complete if rows[0]["status"] == "done"]
        kept += (done or complete or [[]])[-1]
    return kept


def finished_runs(rows: Iterable[Row]) -> set[str]:
    """Names of the runs that succeeded."""
    return {row["run"] for row in rows if row["status"] == "done"}


def append_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Append the rows of one run. Earlier rows are never changed, not even when the disk is full.

    Raises:
        OutputError: the file can't be written to; it is as it was before.
    """
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    try:
        make_folder(path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            # What a kill left of a row goes first; then all rows are written at once, or none.
            size, missing = _whole_lines(descriptor)
            data = missing + text.encode(errors="backslashreplace")
            os.ftruncate(descriptor, size)
            try:
                written = os.pwrite(descriptor, data, size)
                if written != len(data):
                    raise OSError(None, "not enough room for all of it")
                os.fsync(descriptor)
                sync_folder(path.parent)
            except OSError:
                os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise OutputError(
            f"Could not add the rows of {rows[0]['run']} to {path}: {error.strerror or error}. Earlier rows are "
            "kept; make room, or choose another --out, and run the same command again."
        ) from error


def _whole_lines(descriptor: int) -> tuple[int, bytes]:
    """Bytes up to the end of the last whole line, and what must follow it; a line that a kill cut off is dropped.

    A row that lacks only its newline is whole: no part of a JSON object is itself an object.
    """
    size = os.fstat(descriptor).st_size
    end, tail = size, b""
    while end:
        start = max(0, end - 65536)
        part = os.pread(descriptor, end - start, start)
        at = part.rfind(b"\n") + 1
        tail, end = part[at:] + tail, start + at
        if at:
            break
    try:
        json.loads(tail)
    except ValueError:
        return end, b""
    return size, b"\n"
