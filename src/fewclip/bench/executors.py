"""Where runs are executed: processes of this machine, or a Ray cluster. Both give the same rows."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from fewclip.bench.rows import Row, failed_row
from fewclip.bench.run import Run, Where
from fewclip.bench.sweep import Finish, execute
from fewclip.errors import OutputError, SettingsError
from fewclip.workers.process import prepare
from fewclip.workers.ray import connected

TRIES = 2
"""How often a run is begun whose process dies; the second goes on from the state that the first had saved."""
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
        threads = max(1, (os.cpu_count() or 1) // self.processes)
        waiting = deque((run, 1) for run in runs)
        lanes = [_Lane(threads) for _ in range(min(self.processes, len(runs)))]
        working: dict[Future[list[Row]], tuple[_Lane, Run, int]] = {}
        try:
            while waiting or working:
                busy = {id(lane) for lane, _, _ in working.values()}
                for lane in lanes:
                    if waiting and id(lane) not in busy:
                        run, tries = waiting.popleft()
                        working[lane.start(run, where)] = (lane, run, tries)
                for future in wait(working, return_when=FIRST_COMPLETED).done:
                    lane, run, tries = working.pop(future)
                    try:
                        finish(run, future.result())
                    except BrokenProcessPool:
                        lane.renew()
                        if tries < TRIES:
                            waiting.appendleft((run, tries + 1))
                        else:
                            finish(run, [failed_row(run, DIED.format(tries=tries))])
        finally:
            for lane in lanes:
                lane.stop()


class _Lane:
    """One worker process, kept for many runs, and replaced when it dies."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.renew()

    def renew(self) -> None:
        from multiprocessing import get_context

        self.pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=prepare, initargs=(self.threads,))

    def start(self, run: Run, where: Where) -> Future[list[Row]]:
        return self.pool.submit(execute, run, where)

    def stop(self) -> None:
        """At once: what a run has not finished is in its checkpoint."""
        processes = list((self.pool._processes or {}).values())
        self.pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()


@dataclass(frozen=True)
class Ray:
    """On a Ray cluster: the one at `address` ("auto": that of this machine, "local": a new one here).

    `out` and the data root must be the same folders on all of its machines. A run whose worker dies is begun again
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
