"""One thread runs the model; images that arrive at about the same time go through it together.

A batch is whatever is waiting when the model becomes free, up to `size`. The thread waits for more only while further images
are known to be on their way, and then a few milliseconds at most, so that a single client never waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any

from fewclip.serve.limits import busy
from fewclip.serve.metrics import Metrics

Run = Callable[[list[Any], Any], Sequence[Any]]


@dataclass
class Job:
    """One image to be scored among the candidates `among`; images with the same candidates can share a run."""

    pixels: Any
    among: Hashable
    answer: Future[Any] = field(default_factory=Future)


@dataclass
class Errand:
    """Other work that the thread does between two batches."""

    do: Callable[[], Any]
    answer: Future[Any] = field(default_factory=Future)


class Batcher:
    """The thread, its queue, and how many images may be on their way to it.

    `run` takes a list of pixels and their common candidates and returns one answer per image, in order. An exception that it
    raises is the answer to all of its images, and the thread continues.
    """

    def __init__(self, run: Run, metrics: Metrics, *, size: int = 32, wait: float = 0.004, queue: int = 256) -> None:
        self._run, self._metrics = run, metrics
        self._size, self._wait, self._room = size, wait, queue
        self._queue: SimpleQueue[Job | Errand | None] = SimpleQueue()
        self._lock = Lock()
        self.held = 0
        """Images being decoded or waiting."""
        self._coming = 0  # of them not yet submitted
        self._rate = 0.05  # seconds per image: a guess at first, then a running mean
        self._closed = False
        self._thread = Thread(target=self._work, name="fewclip-model", daemon=True)
        self._thread.start()

    @contextmanager
    def places(self, count: int) -> Iterator[Callable[[Any, Hashable], Future[Any]]]:
        """Room for `count` images, while the context lasts. Yields what lets the model score one of them, given its pixels and
        candidates; the future holds its answer.

        Raises:
            Refused: 503, the queue is full.
        """
        with self._lock:
            if self.held + count > self._room:
                raise busy(
                    f"{self.held} images are waiting and the queue holds {self._room}: try again.",
                    self.held * self._rate,
                )
            self.held += count
            self._coming += count
        coming = count

        def submit(pixels: Any, among: Hashable) -> Future[Any]:
            nonlocal coming
            coming -= 1
            with self._lock:
                self._coming -= 1
            return self._enqueue(Job(pixels, among))

        try:
            yield submit
        finally:
            with self._lock:
                self.held -= count
                self._coming -= coming

    def call(self, do: Callable[[], Any]) -> Future[Any]:
        """Have the thread do something between two batches."""
        return self._enqueue(Errand(do))

    def close(self) -> None:
        """Finish what is waiting, then stop."""
        with self._lock:
            self._closed = True
            self._queue.put(None)
        self._thread.join()

    def _enqueue(self, job: Job | Errand) -> Future[Any]:
        with self._lock:
            if self._closed:
                raise busy("The server is stopping.")
            self._queue.put(job)
        return job.answer

    def _work(self) -> None:
        held_over: Job | Errand | None = None
        while True:
            first = held_over or self._queue.get()
            held_over = None
            if first is None:
                return
            # An errand runs alone: what it changes, such as the classes, must not change during a run
            if isinstance(first, Errand):
                self._answer([first.answer], lambda do=first.do: [do()])  # type: ignore[misc]
                continue
            # Fill the batch from the queue; wait only for images whose decoding has begun
            batch, until = [first], time.monotonic() + self._wait
            last = False
            while len(batch) < self._size:
                try:
                    following = self._queue.get(timeout=max(0.0, until - time.monotonic()) if self._coming else 0)
                except Empty:
                    break
                if isinstance(following, Job):
                    batch.append(following)
                    continue
                last, held_over = following is None, following
                break
            self._score(batch)
            if last:
                return

    def _score(self, batch: list[Job]) -> None:
        """Run a batch, in as many runs as it has sets of candidates."""
        groups: dict[Hashable, list[Job]] = {}
        for job in batch:
            groups.setdefault(job.among, []).append(job)
        for among, jobs in groups.items():
            self._answer([job.answer for job in jobs], partial(self._measured, [job.pixels for job in jobs], among))

    def _measured(self, pixels: list[Any], among: Any) -> Sequence[Any]:
        """One run of the model; counted before it is answered, so that the metrics include whatever was answered."""
        started = time.monotonic()
        try:
            return self._run(pixels, among)
        finally:
            seconds = time.monotonic() - started
            self._rate += 0.2 * (seconds / len(pixels) - self._rate)
            self._metrics.model_seconds.observe(seconds)
            self._metrics.batch.observe(len(pixels))
            self._metrics.images.inc(len(pixels))

    @staticmethod
    def _answer(futures: Sequence[Future[Any]], do: Callable[[], Sequence[Any]]) -> None:
        live = [future.set_running_or_notify_cancel() for future in futures]
        try:
            answers = do()
        except BaseException as error:  # becomes each one's answer; the thread must continue
            for future, wanted in zip(futures, live, strict=True):
                if wanted:
                    future.set_exception(error)
            return
        for future, wanted, answer in zip(futures, live, answers, strict=True):
            if wanted:
                future.set_result(answer)
