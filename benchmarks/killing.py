"""Work in a forked process that is killed at a chosen moment, with everything that it started.

The parent has imported all and computed nothing, so a child begins at once with the work itself: the moments are spread over
that, not over three seconds of importing torch. Workers of a child are forked too, where fewclip would spawn them.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 180.0
"""Seconds after which undisturbed work counts as hanging."""
BECOME_SUBREAPER = 36


@dataclass(frozen=True)
class Ended:
    seconds: float
    status: int | None
    """None: it was killed."""
    said: str
    """Standard output and error."""


def adopt_orphans() -> None:
    """Let workers of killed children become children of this process, so that their end can be waited for."""
    ctypes.CDLL(None).prctl(BECOME_SUBREAPER, 1, 0, 0, 0)


def start(work: Callable[[], object], log: Path) -> int:
    """Begin `work` in a child that leads a process group; its number."""
    sys.stdout.flush()
    gc.freeze()
    log.write_text("")
    child = os.fork()
    if child:
        with suppress(OSError):  # it has done so itself, or ended
            os.setpgid(child, child)
        return child
    status = 70
    try:
        os.setpgid(0, 0)
        descriptor = os.open(log, os.O_WRONLY)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        _fork_workers()
        done = work()
        status = done if isinstance(done, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def end(child: int, log: Path, began: float, seconds: float | None = None) -> Ended:
    """Kill a child's group when `seconds` have passed since it began, or wait for its end.

    Raises:
        TimeoutError: work that was not to be killed runs for minutes.
    """
    until = began + (PATIENCE if seconds is None else seconds)
    status: int | None = None
    while True:
        found, code = os.waitpid(child, os.WNOHANG)
        if found:
            status = os.waitstatus_to_exitcode(code)
            break
        left = until - time.monotonic()
        if left <= 0:
            break
        time.sleep(min(left, 0.01))
    took = time.monotonic() - began
    _end_group(child)
    if status is None and seconds is None:
        raise TimeoutError(f"no end after {PATIENCE:.0f} s: {log.read_text()[-2000:]}")
    return Ended(took, status, log.read_text(errors="replace"))


def run(work: Callable[[], object], log: Path, seconds: float | None = None) -> Ended:
    began = time.monotonic()
    return end(start(work, log), log, began, seconds)


def _end_group(leader: int) -> None:
    """SIGKILL to all that is left of a group, and wait until it is gone."""
    try:
        os.killpg(leader, signal.SIGKILL)
        while True:
            os.waitpid(-leader, 0)
    except (ProcessLookupError, ChildProcessError):
        return


def _fork_workers() -> None:
    """Workers are forked, and have one thread each, whatever the machine has."""
    real = multiprocessing.get_context
    os.cpu_count = lambda: 1
    os.sched_getaffinity = lambda process: {0}

    def forked(method: str | None = None) -> object:
        return real("fork")

    multiprocessing.get_context = forked  # type: ignore[assignment]
