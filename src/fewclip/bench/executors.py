"""Where runs are executed: processes of this machine, or a Ray cluster. Both give the same rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from fewclip.bench.rows import Row, failed_row
from fewclip.bench.run import Run, Where
from fewclip.bench.sweep import Finish, execute
from fewclip.errors import OutputError, SettingsError
from fewclip.workers.pool import Death, Pool
from fewclip.workers.ray import connected

TRIES = 2
"""How often a run is started whose process dies; the second resumes from the state that the first had saved."""
DIED = "its process died {tries} times (killed, or out of memory)"


@dataclass(frozen=True)
class Local:
    """`processes` at a time, each with its share of the cores. A process that dies takes only its own run with it."""

    processes: int = 1
    """How many runs at a time."""

    def __post_init__(self) -> None:
        if self.processes < 1:
            raise SettingsError(f"processes is {self.processes}, but it must be at least 1.")

    def __call__(self, runs: Sequence[Run], where: Where, finish: Finish) -> None:
        def died(run: Run, death: Death) -> Run | None:
            if death.times < TRIES:
                return run
            finish(run, [failed_row(run, DIED.format(tries=death.times))])
            return None

        serve = [partial(_rows, where)] * min(self.processes, len(runs))
        Pool[Run, list[Row]](serve).run(runs, finish, died)


def _rows(where: Where, runs: Iterator[Run], note: Callable[[Any], None]) -> Iterator[list[Row]]:
    """What a worker does."""
    return (execute(run, where) for run in runs)


@dataclass(frozen=True)
class Ray:
    """On a Ray cluster: the one at `address` ("auto": that of this machine, "local": a new one here).

    `out` and the data root must be the same folders on all of its machines. A run whose worker dies is started again
    elsewhere, from its saved state.
    """

    address: str = "auto"
    cpus: float = 1
    """Cores of each run."""
    gpus: float = 0
    """GPUs of each run, such as 1 or 0.25."""

    def __call__(self, runs: Sequence[Run], where: Where, finish: Finish) -> None:
        with connected(self.address) as ray:
            self._run(ray, runs, where, finish)

    def _run(self, ray: Any, runs: Sequence[Run], where: Where, finish: Finish) -> None:
        task = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=TRIES - 1)(_on_worker)
        left = {task.remote(run, where, max(1, int(self.cpus))): run for run in runs}
        while left:
            for reference in ray.wait(list(left), num_returns=1)[0]:
                run = left.pop(reference)
                try:
                    rows = ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    if isinstance(error.cause, OutputError):
                        raise error.cause from None
                    rows = [failed_row(run, str(error.cause))]
                except ray.exceptions.RayError as error:
                    rows = [failed_row(run, f"{DIED.format(tries=TRIES)}: {type(error).__name__}")]
                finish(run, rows)


def _on_worker(run: Run, where: Where, threads: int) -> list[Row]:
    import torch

    torch.set_num_threads(threads)
    return execute(run, where)
