"""Worker processes of this machine. One that dies is replaced, and its tasks are done again.

The processes of `fewclip bench` and `fewclip predict -o`. Each has its share of the cores and is kept for many tasks, so that
torch is imported, and a model loaded, once per process.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from fewclip import errors
from fewclip.errors import FewclipError

Task = TypeVar("Task")
Result = TypeVar("Result")
Serve = Callable[[Iterator[Task], Callable[[Any], None]], Iterable[Result]]
"""What a worker does; it is pickled. Called with the tasks and with a function that sends the pool a note of where it is
(see `Death`); it prepares what all tasks need and returns one result per task, in order."""

BORN_DEAD = 3
"""How many processes may die in a row before they are ready for work."""


@dataclass(frozen=True)
class Death:
    """What is known of a process that died with a task in hand."""

    times: int
    """Processes that have died with this task in hand so far."""
    ready: bool
    """It had prepared itself, so one of its tasks may be to blame."""
    note: Any
    """The last note since its last result."""


class Pool(Generic[Task, Result]):
    """One process for each of `serve`; they differ where each has its own device.

    Args:
        in_hand: tasks that a process is given at a time. With two, it need not wait between them.
        alone: tasks that are given to a process that has no other.
    """

    def __init__(
        self,
        serve: Sequence[Serve[Task, Result]],
        *,
        in_hand: int = 1,
        alone: Callable[[Task], bool] = lambda task: False,
    ) -> None:
        self.serve, self.in_hand, self.alone = serve, in_hand, alone
        self.threads = max(1, cores() // len(serve))

    def run(
        self,
        tasks: Iterable[Task],
        finish: Callable[[Task, Result], None],
        died: Callable[[Task, Death], Task | None],
    ) -> None:
        """Do all tasks, in order of their start; no process is left at the end.

        Args:
            finish: called with each task and its result, as soon as there is one.
            died: called with each task in hand of a process that died; returns what to do in its place, or None.

        Raises:
            FewclipError: a process raised it, or processes die before they are ready.
            RuntimeError: any other error in a process.
        """
        waiting = deque(enumerate(tasks))
        deaths: Counter[int] = Counter()
        born_dead = 0
        workers = [_Worker[Task](serve, self.threads) for serve in self.serve]
        try:
            while waiting or any(worker.tasks for worker in workers):
                for worker in workers:
                    while waiting and self._takes(worker, waiting[0][1]):
                        worker.give(*waiting.popleft())
                readable = wait([worker.pipe for worker in workers])
                for worker in (worker for worker in workers if worker.pipe in readable):
                    try:
                        kind, content = worker.pipe.recv()
                    except (EOFError, OSError):
                        born_dead += not worker.ready
                        # Back to the front, in their order, so that results come nearly in the order of the tasks.
                        for number, task in reversed(worker.tasks):
                            deaths[number] += 1
                            again = died(task, Death(deaths[number], worker.ready, worker.note))
                            if again is not None:
                                waiting.appendleft((number, again))
                        if born_dead >= BORN_DEAD:
                            raise FewclipError(
                                f"{born_dead} processes in a row died before they were ready (killed, or out of memory): "
                                "give fewer --processes."
                            ) from None
                        worker.renew()
                        continue
                    if kind == "ready":
                        worker.ready, born_dead = True, 0
                    elif kind == "note":
                        worker.note = content
                    elif kind == "result":
                        worker.note = None
                        finish(worker.tasks.popleft()[1], content)
                    elif kind == "refused":
                        raise getattr(errors, content[0], FewclipError)(content[1])
                    else:
                        raise RuntimeError(f"A worker failed:\n{content}")
        finally:
            for worker in workers:
                worker.stop()

    def _takes(self, worker: _Worker[Task], task: Task) -> bool:
        if self.alone(task) or any(self.alone(other) for _, other in worker.tasks):
            return not worker.tasks
        return len(worker.tasks) < self.in_hand


class _Worker(Generic[Task]):
    """A process, and the numbered tasks that it has in hand, in the order that they were given."""

    def __init__(self, serve: Serve[Task, Any], threads: int) -> None:
        self.serve, self.threads = serve, threads
        self.note: Any = None
        self.tasks: deque[tuple[int, Task]] = deque()
        self.renew()

    def renew(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, its_end = context.Pipe()
        self.process = context.Process(target=_live, args=(its_end, self.serve, self.threads), daemon=True)
        self.process.start()
        its_end.close()  # the process alone holds it, so that its death ends the pipe
        self.tasks.clear()
        self.ready, self.note = False, None

    def give(self, number: int, task: Task) -> None:
        self.tasks.append((number, task))
        with suppress(OSError):  # it has died, which is seen when the pipe is read
            self.pipe.send(task)

    def stop(self) -> None:
        """At once: what is finished is kept elsewhere."""
        self.pipe.close()
        self.process.kill()
        self.process.join()


def _live(pipe: Connection, serve: Serve[Any, Any], threads: int) -> None:
    """What a worker process runs until its input ends."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that made this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    lock = threading.Lock()  # notes may come from another thread

    def send(kind: str, content: Any = None) -> None:
        with lock:
            pipe.send((kind, content))

    def tasks() -> Iterator[Any]:
        while True:
            yield pipe.recv()

    try:
        results = serve(tasks(), lambda note: send("note", note))
        send("ready")
        for result in results:
            send("result", result)
    except EOFError:
        return
    except FewclipError as error:
        send("refused", (type(error).__name__, str(error)))
    except BaseException:
        send("failed", traceback.format_exc())


def _end_with_parent() -> None:
    """End when the process that made this one is gone, even by kill -9."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
