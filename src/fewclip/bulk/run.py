"""Prediction into a file: list the pieces, skip those that are finished, predict the rest, and join them into one file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from fewclip.adapters.hub import open_adapter
from fewclip.bulk.arrow import arrow
from fewclip.bulk.local import Finish, Local
from fewclip.bulk.plan import Plan, write_plan
from fewclip.bulk.predictor import Order, Part, Spec
from fewclip.bulk.sources import Sources
from fewclip.bulk.table import ending_of, join
from fewclip.bulk.work import KEPT, Work
from fewclip.errors import DataError, OutputError, SettingsError
from fewclip.version import __version__

Executor = Callable[[Sequence[Order], Spec, Finish], None]
Report = Callable[[int, int], None]
"""Called with the number of images done so far, and of all images."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to predict, and everything that the rows depend on."""

    adapter: str
    sources: tuple[str, ...]
    classes: tuple[str, ...] | None = None
    """Candidates; by default the classes of the adapter."""
    top: int = 5
    """Classes per row, at most."""
    probabilities: bool = False
    """Also the probabilities of all candidates, in their order."""
    column: str | None = None
    """Parquet: the column of the images."""
    id_column: str | None = None
    """Parquet: the column of the ids."""
    backbone: str | None = None
    device: str | None = None


@dataclass(frozen=True)
class Done:
    rows: int
    errors: int
    """Rows of images that could not be read."""
    before: int
    """Images that were done before this call."""
    repeated: int
    """Paths that were named again and skipped."""


def label(
    job: Job,
    out: str | Path,
    *,
    executor: Executor | None = None,
    overwrite: bool = False,
    report: Report | None = None,
) -> Done:
    """Write one row per image into `out` (.parquet, .csv or .jsonl); by default with processes of this machine.

    If it is stopped, the same call resumes it. The output appears when all rows are done.

    Raises:
        DataError: a source that can't be used, or has no images. An image that can't be read is a row, not an error.
        AdapterError, BackboneError, SettingsError, PromptError: an adapter, a setting or a class that can't be used.
        OutputError: `out` can't be written to, is being written by another process, or holds something else.
    """
    out = Path(out)
    ending = ending_of(out)
    if job.top < 1:
        raise SettingsError(f"top is {job.top}, but it must be at least 1.")
    arrow()
    if job.classes == ():
        raise DataError("classes is empty: give at least one class name.")
    adapter, config, _ = open_adapter(job.adapter, own_backbone=job.backbone is None)
    sources = Sources(job.sources, column=job.column, id_column=job.id_column, but=out)
    work = Work(out)
    with work.alone():
        # The source is listed again each time: a file that was added, removed or changed makes it another source.
        plan = write_plan(work.plan, sources)
        identity = _identity(job, asdict(config), plan)
        before = work.finished()
        if before is not None and before["identity"] == identity:
            finished = before["finished"]
            work.tidy()
            return Done(finished["rows"], finished["errors"], finished["rows"], sources.repeated)
        work.begin(identity, overwrite=overwrite)
        # Parts that an earlier call has finished are kept; workers get the other pieces.
        kept = work.done(plan)
        done = start = sum(plan.counts[number] for number in kept)
        if report is not None:
            report(done, plan.images)

        def finish(part: Part) -> None:
            nonlocal done
            work.keep(part.number, part.data)
            done += plan.counts[part.number]
            if report is not None:
                report(done, plan.images)

        orders = [Order(number, place) for number, place in enumerate(plan.places) if number not in kept]
        if orders:
            spec = Spec(
                plan=str(plan.path.absolute()),
                adapter=os.path.abspath(adapter),
                classes=job.classes,
                top=job.top,
                probabilities=job.probabilities,
                backbone=job.backbone,
                device=job.device,
            )
            (executor or Local())(orders, spec, finish)
        # All parts are there: they become one file, in the order of the source, and then the output.
        known = config.classes + config.added_classes
        about = identity | {"classes": known if job.classes is None else list(job.classes)}
        rows, errors = _join(work, plan, ending, about, job.probabilities)
        work.publish(identity, {"rows": rows, "errors": errors})
    return Done(rows, errors, start, sources.repeated)


def _join(work: Work, plan: Plan, ending: str, about: dict[str, Any], probabilities: bool) -> tuple[int, int]:
    try:
        rows, errors = join((work.part(n) for n in range(len(plan))), work.joined, ending, about, probabilities)
    except OSError as error:
        work.joined.unlink(missing_ok=True)
        raise OutputError(f"Could not write {work.out}: {error.strerror or error}. Make room. {KEPT}") from error
    if rows != plan.images:
        raise RuntimeError(f"{rows} rows were written for {plan.images} images")
    return rows, errors


def _identity(job: Job, config: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """What must be equal for rows to belong in one file. Where they are computed, and by how many processes, does not count."""
    return {
        "adapter": sha256(json.dumps(config, sort_keys=True).encode()).hexdigest(),
        "source": plan.digest,
        "classes": None if job.classes is None else list(job.classes),
        "top": job.top,
        "probabilities": job.probabilities,
        "column": [job.column, job.id_column],
        "version": __version__,
    }
