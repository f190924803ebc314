"""The folder beside the output that keeps its parts until all are finished, so that a run can be resumed.

    .labels.parquet.fewclip/
      .lock           while a process writes
      job.json        what the rows depend on; when they are finished, the size and time of the output
      plan.jsonl      the pieces
      part-N.parquet  the rows of piece N: whole, or not there

The output is written here and renamed. job.json stays, so that the same command knows that it is done.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fewclip.bulk.plan import Plan
from fewclip.bulk.sources import size_and_time
from fewclip.bulk.table import rows_of
from fewclip.errors import OutputError
from fewclip.files.lock import only_writer
from fewclip.files.write import write_bytes, write_json

KEPT = "What is finished is kept: the same command resumes from it."


class Work:
    """The folder of one output."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out.with_name(f".{out.name}.fewclip")
        self.plan = self.folder / "plan.jsonl"
        self.joined = self.folder / "joined"
        self._job = self.folder / "job.json"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Refuse, with an OutputError, a second process that writes the same output."""
        if self.out.is_dir():
            raise OutputError(f"{self.out} is a folder: give -o the name of a file.")
        with only_writer(self.folder, output=self.out):
            yield

    def finished(self) -> dict[str, Any] | None:
        """What job.json records of the output when it was finished, if it is still that file."""
        job = self._read()
        if job and job.get("finished") and size_and_time(self.out) == job["finished"]["file"]:
            return job
        return None

    def begin(self, identity: dict[str, Any], *, overwrite: bool) -> None:
        """Keep the parts of a run with the same identity, or prepare for new ones.

        Raises:
            OutputError: there is an output, or parts of one, of something else, and it is not to be overwritten.
        """
        job = self._read()
        unfinished = job is not None and not job.get("finished")
        if job is not None and unfinished and job["identity"] == identity:
            return
        if not overwrite:
            if job is not None and unfinished and any(self._parts()):
                raise OutputError(
                    f"{self.out} was started with {_difference(job['identity'], identity)}: give the same command to resume "
                    "it, --overwrite to start again, or another -o."
                )
            if self.out.exists():
                raise OutputError(f"{self.out} exists already: give --overwrite, or another -o.")
        self._job.unlink(missing_ok=True)
        self.clear()
        write_json(self._job, {"identity": identity, "finished": None})

    def done(self, plan: Plan) -> set[int]:
        """Numbers of the pieces whose rows are finished."""
        numbers = set()
        for part in self._parts():
            number = int(part.stem.removeprefix("part-"))
            if number < len(plan) and rows_of(part) == plan.counts[number]:
                numbers.add(number)
        return numbers

    def part(self, number: int) -> Path:
        return self.folder / f"part-{number}.parquet"

    def keep(self, number: int, data: bytes) -> None:
        """Write the rows of a piece.

        Raises:
            OutputError: there is no room. Parts that are finished stay.
        """
        try:
            write_bytes(self.part(number), data)
        except OutputError as error:
            raise OutputError(f"{error} {KEPT}") from error

    def publish(self, identity: dict[str, Any], counts: dict[str, int]) -> None:
        """Make the joined file the output, then delete the parts.

        Raises:
            OutputError
        """
        try:
            os.replace(self.joined, self.out)
        except OSError as error:
            raise OutputError(f"Could not write {self.out}: {error.strerror or error}. {KEPT}") from error
        write_json(self._job, {"identity": identity, "finished": {"file": size_and_time(self.out), **counts}})
        self.tidy()

    def tidy(self) -> None:
        """Delete all but job.json."""
        self.clear()
        self.plan.unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete the parts, and what a kill has left of files that were being written."""
        for path in (*self._parts(), self.joined, *self.folder.glob(".*.tmp")):
            path.unlink(missing_ok=True)

    def _parts(self) -> Iterator[Path]:
        return (p for p in self.folder.iterdir() if re.fullmatch(r"part-\d+\.parquet", p.name))

    def _read(self) -> dict[str, Any] | None:
        try:
            job = json.loads(self._job.read_text(encoding="utf-8"))
            return job if isinstance(job["identity"], dict) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    changed = [name for name in new if old.get(name) != new[name]]
    return f"another {' and '.join(changed) or 'version'}"
