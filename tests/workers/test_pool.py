"""The pool of worker processes: each task once, whoever dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fewclip.errors import DataError, FewclipError
from fewclip.workers.pool import Death, Pool

Note = Callable[[Any], None]


@pytest.fixture(autouse=True)
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not spawned as in real work (tests/bulk and tests/bench have that): each would import torch for seconds."""
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: fork)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def double(folder: Path, tasks: Iterator[int], note: Note) -> Iterator[int]:
    """Twice the number; the first to get a 3 dies after it has taken another task, the others with a note each time."""
    for task in tasks:
        if task == 3 and not (folder / "died").exists():
            (folder / "died").touch()
            next(tasks)
            die()
        if task == 13:
            note("at 13")
            die()
        yield 2 * task


def test_what_a_dead_process_had_in_hand_is_done_again_in_order(tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    deaths: list[tuple[int, Death]] = []

    def died(task: int, death: Death) -> int:
        deaths.append((task, death))
        return task

    pool = Pool[int, int]([partial(double, tmp_path)], in_hand=2)
    pool.run(range(7), lambda task, result: done.append((task, result)), died)
    assert done == [(n, 2 * n) for n in range(7)]
    assert sorted(task for task, _ in deaths) == [3, 4]
    assert {death for _, death in deaths} == {Death(times=1, ready=True, note=None)}


def test_a_suspected_task_is_alone_in_its_process(tmp_path: Path) -> None:
    """A task that ends its process is given again, alone, and at last left out; its neighbours are done once."""
    (tmp_path / "died").touch()
    done: list[int] = []
    deaths: list[tuple[int, int, Any]] = []

    def died(task: int, death: Death) -> int | None:
        deaths.append((task, death.times, death.note))
        return task if task != 13 or death.times < 3 else None

    pool = Pool[int, int]([partial(double, tmp_path)] * 2, in_hand=2, alone=lambda task: task == 13)
    pool.run([13, 1, 2, 4], lambda task, result: done.append(task), died)
    assert sorted(done) == [1, 2, 4]
    assert deaths == [(13, times, "at 13") for times in (1, 2, 3)]


def never(tasks: Iterator[int], note: Note) -> Iterator[int]:
    die()
    return iter(())


def refuse(tasks: Iterator[int], note: Note) -> Iterator[int]:
    raise DataError("No such images.")


def fail(tasks: Iterator[int], note: Note) -> Iterator[int]:
    for task in tasks:
        yield 1 // task


def test_processes_that_never_become_ready_end_the_pool() -> None:
    times: list[int] = []

    def died(task: int, death: Death) -> int | None:
        assert not death.ready
        times.append(death.times)
        return task if len(times) < 9 else None

    with pytest.raises(FewclipError, match=r"3 processes in a row died before they were ready .*--processes"):
        Pool[int, int]([never]).run([1], lambda task, result: None, died)
    assert times == [1, 2, 3]


def test_errors_of_a_process_are_raised_here() -> None:
    with pytest.raises(DataError, match=r"^No such images\.$"):
        Pool[int, int]([refuse]).run([1], lambda task, result: None, lambda task, death: task)
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        Pool[int, int]([fail]).run([0], lambda task, result: None, lambda task, death: task)
