"""Worker processes of this machine. Each has one piece in work and one waiting, so that it need not wait for either."""

from __future__ import annotations

import signal
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from threading import Lock
from typing import Any

from fewclip import errors
from fewclip.bulk.predictor import Order, Part, Predictor, Spec, cores
from fewclip.errors import FewclipError, SettingsError

Finish = Callable[[Part], None]
"""Called by an executor with each part as soon as it is there."""

MOST = 8
"""Processes that are begun unless more are asked for: each holds the whole model."""
IN_HAND = 2
"""Orders that a worker has."""
DEATHS = 3
"""How often a process may die while it loads the model, and images of one piece may end it."""


@dataclass(frozen=True)
class Local:
    """`processes` at a time, each with its share of the cores; by default one a core, at most eight, or one a GPU.

    A process that dies is replaced and its pieces are done again; where one dies twice over the same piece, its images are
    read one by one, and the one that is to blame gets a row with an error.
    """

    processes: int | None = None

    def __post_init__(self) -> None:
        if self.processes is not None and self.processes < 1:
            raise SettingsError(f"processes is {self.processes}, but it must be at least 1.")

    def __call__(self, orders: Sequence[Order], spec: Spec, finish: Finish) -> None:
        devices = _devices(spec.device)
        count = self.processes or (len(devices) if devices[0] != "cpu" else min(cores(), MOST))
        count = min(count, len(orders))
        threads = max(1, cores() // count)
        workers = [Worker(replace(spec, device=devices[n % len(devices)]), threads) for n in range(count)]
        try:
            _Run(deque(orders), workers, finish).work()
        finally:
            for worker in workers:
                worker.stop()


def _devices(device: str | None) -> list[str]:
    if device is not None:
        return [device]
    import torch

    return [f"cuda:{n}" for n in range(torch.cuda.device_count())] if torch.cuda.is_available() else ["cpu"]


class _Run:
    """What is waiting, who does what, and what happened to each piece so far."""

    def __init__(self, waiting: deque[Order], workers: list[Worker], finish: Finish) -> None:
        self.waiting, self.workers, self.finish = waiting, workers, finish
        self.deaths: Counter[int] = Counter()
        self.born_dead = 0

    def work(self) -> None:
        while self.waiting or any(worker.orders for worker in self.workers):
            for worker in self.workers:
                while self.waiting and worker.takes(self.waiting[0]):
                    worker.give(self.waiting.popleft())
            by_pipe = {id(worker.answers): worker for worker in self.workers}
            for pipe in wait([worker.answers for worker in self.workers]):
                worker = by_pipe[id(pipe)]
                try:
                    message = worker.answers.recv()
                except (EOFError, OSError):
                    self._died(worker)
                else:
                    self._heed(worker, message)

    def _heed(self, worker: Worker, message: tuple[Any, ...]) -> None:
        what, *rest = message
        if what == "ready":
            worker.ready, self.born_dead = True, 0
        elif what == "at":
            worker.at = rest[1]
        elif what == "part":
            worker.orders.popleft()
            worker.at = None
            self.finish(Part(*rest))
        elif what == "refused":
            raise getattr(errors, rest[0], FewclipError)(rest[1])
        else:
            raise RuntimeError(f"A worker failed:\n{rest[0]}")

    def _died(self, worker: Worker) -> None:
        if not worker.ready:
            self.born_dead += 1
            if self.born_dead >= DEATHS:
                raise FewclipError(
                    f"Processes died {DEATHS} times while they loaded the model (killed, or out of memory): give fewer "
                    "--processes."
                )
        for order in reversed(worker.orders):
            self.waiting.appendleft(self._again(order, worker))
        worker.renew()

    def _again(self, order: Order, worker: Worker) -> Order:
        if not worker.ready:
            return order
        self.deaths[order.number] += 1
        if not order.careful:
            return replace(order, careful=self.deaths[order.number] > 1)
        skip = order.skip if worker.at is None else order.skip | {worker.at}
        if self.deaths[order.number] > 2 + DEATHS:
            raise FewclipError(
                f"Processes died {self.deaths[order.number]} times over the same images (killed, or out of memory): give "
                "fewer --processes. What is finished is kept: the same command goes on from it."
            )
        return replace(order, skip=skip)


class Worker:
    """One process, its orders in the order that they were given, and the image that it was last at."""

    def __init__(self, spec: Spec, threads: int) -> None:
        self.spec, self.threads = spec, threads
        self.orders: deque[Order] = deque()
        self.renew()

    def renew(self) -> None:
        context = get_context("spawn")
        self.answers, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, self.spec, self.threads), daemon=True)
        self.process.start()
        theirs.close()  # so that its end is seen here
        self.orders.clear()
        self.ready, self.at = False, None

    ready: bool
    at: int | None

    def takes(self, order: Order) -> bool:
        """Whether it should have one more; one that is to be done with care comes alone."""
        if order.careful or any(o.careful for o in self.orders):
            return not self.orders
        return len(self.orders) < IN_HAND

    def give(self, order: Order) -> None:
        self.orders.append(order)
        with suppress(OSError):  # it has died, which is seen when its answers are asked for
            self.answers.send(order)

    def stop(self) -> None:
        """At once."""
        self.answers.close()
        self.process.kill()
        self.process.join()


def _work(pipe: Connection, spec: Spec, threads: int) -> None:
    """The life of a worker."""
    from fewclip.workers.process import prepare

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that made this one
    prepare(threads)
    lock = Lock()

    def say(*message: Any) -> None:
        with lock:
            pipe.send(message)

    def orders() -> Iterator[Order]:
        while True:
            yield pipe.recv()

    try:
        predictor = Predictor(spec, threads)
        say("ready")
        for part in predictor.parts(orders(), lambda number, image: say("at", number, image)):
            say("part", *part)
    except EOFError:
        return
    except FewclipError as error:
        say("refused", type(error).__name__, str(error))
    except BaseException:
        say("failed", traceback.format_exc())
