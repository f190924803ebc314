"""Result rows: one dict for each thing that a run measured, kept as JSON Lines and only ever appended to.

A run is one training; its rows are written together, in one piece. Each says which run it is of and how many rows that
run has, so that a run whose writing was cut off is seen as unfinished and is done again. Tables, plots and resuming
are all made from rows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fewclip.errors import DataError, OutputError
from fewclip.files.read import parse_json, read_bytes
from fewclip.files.write import make_folder, sync_folder

Row = dict[str, Any]

ROWS = "rows.jsonl"
LARGEST = 2 << 30
"""Bytes of a file of rows."""
FIELDS = {
    "run": "name of the run, the same whenever the same thing is run",
    "row": "which of its rows this is, counted from 1",
    "rows": "how many rows the run has",
    "status": "done, or failed",
    "error": "of a failed run: what went wrong; else null",
    "protocol": "base-to-novel, open, few-shot, cross-dataset or domain-generalization",
    "preset": "fair or paper",
    "method": "name of the method",
    "settings": "the method's settings",
    "training": "settings of training",
    "ablation": "name of the ablation, or null",
    "variant": "which of the ablation's variants, or of the ways to predict (null: the usual one)",
    "backbone": "the CLIP that was adapted",
    "backbone_fingerprint": "checksum of its weights",
    "source": "data set trained on",
    "dataset": "data set tested on",
    "template": "prompt template of the test",
    "split": "classes of the test images: base, novel or all",
    "candidates": "classes to choose from: those of the split, or all",
    "seed": "seed of picks, start, order and augmentation",
    "shots": "training images of each class",
    "train_images": "images trained on",
    "val_images": "validation images that settings were chosen by, as in the method's published runs; 0: none",
    "chosen": "the settings that they chose, by name",
    "images": "images tested",
    "classes": "number of candidate classes",
    "accuracy": "per cent of images right",
    "mean_class_accuracy": "mean over classes of the accuracy of each",
    "per_class": "class name -> accuracy",
    "calibration_error": "expected calibration error in points: 15 equal bins of the highest probability",
    "confusions": "[true class, predicted class, images], the most frequent mistakes first",
    "examples": "{key, truth, guess, probability} of images spread over the data, then of wrong ones; key names the image in its data set",
    "parameters": "trained parameters",
    "train_seconds": "time of training",
    "predict_seconds": "time of predicting all images of this row, reading them included",
    "peak_memory_mb": "highest memory of the process in this run",
    "gpu_memory_mb": "highest memory on the GPU, or null",
    "versions": "of fewclip, torch and python",
    "machine": "processor, cores, threads in use, GPU",
    "finished": "when, in UTC",
}
"""What a row says. A failed run has one row, without what was not measured."""

MEASURED = ("train_seconds", "predict_seconds", "peak_memory_mb", "gpu_memory_mb", "versions", "machine", "finished")
"""Fields that differ from one time to the next; all others of a run follow from what it is."""


def rows_file(place: str | Path) -> Path:
    """The file of rows of a results folder, or the file itself."""
    place = Path(place)
    return place / ROWS if os.path.isdir(place) or place.suffix != ".jsonl" else place


def read_rows(place: str | Path) -> list[Row]:
    """The rows of all complete runs, by run. One that was done twice counts with its last rows, one that failed only if
    it never succeeded. A last line that was cut off is passed over.

    Raises:
        DataError: no such file, or a line that is no row.
    """
    path = rows_file(place)
    if not os.path.isfile(path):
        raise DataError(f"There are no results at {path}: make some with `fewclip bench … --out {Path(place)}`.")
    attempts: dict[str, list[list[Row]]] = {}
    try:
        lines = read_bytes(path, LARGEST).split(b"\n")
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}.") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
            run, part = row["run"], row["row"]
            if [type(row[name]) for name in ("run", "row", "rows", "status")] != [str, int, int, str]:
                raise ValueError("its head is of other types")
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):  # no newline behind it: its writing was cut off
                continue
            raise DataError(f"Line {number} of {path} is no result row: delete it, or restore the file.") from error
        mine = attempts.setdefault(run, [])
        if part == 1 or not mine:
            mine.append([])
        mine[-1].append(row)
    kept: list[Row] = []
    for mine in attempts.values():
        complete = [rows for rows in mine if [row["row"] for row in rows] == list(range(1, len(rows) + 1))]
        complete = [rows for rows in complete if rows[0]["rows"] == len(rows)]
        done = [rows for rows in complete if rows[0]["status"] == "done"]
        kept += (done or complete or [[]])[-1]
    return kept


def finished_runs(rows: Iterable[Row]) -> set[str]:
    """Names of the runs that succeeded."""
    return {row["run"] for row in rows if row["status"] == "done"}


def append_rows(path: Path, rows: Sequence[Row]) -> None:
    """Add the rows of one run. What was there stays as it was, also when the disk is full.

    Raises:
        OutputError: the file can't be written to; it is as it was before.
    """
    data = "".join(json.dumps(row, ensure_ascii=False, sort_keys=False) + "\n" for row in rows).encode(
        errors="backslashreplace"
    )
    try:
        make_folder(path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            size, missing = _whole_lines(descriptor)
            data = missing + data
            os.ftruncate(descriptor, size)
            try:
                written = os.pwrite(descriptor, data, size)
                if written != len(data):
                    raise OSError(None, "no room for all of it")
                os.fsync(descriptor)
                sync_folder(path.parent)
            except OSError:
                os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise OutputError(
            f"Could not add the rows of {rows[0]['run']} to {path}: {error.strerror or error}. Rows that were there are "
            "kept; make room, or choose another --out, and run the same command again."
        ) from error


def _whole_lines(descriptor: int) -> tuple[int, bytes]:
    """Bytes up to the end of the last whole line, and what is missing behind it; a line that a kill cut off is dropped.

    A row without its newline is whole: no beginning of a JSON object is an object.
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
