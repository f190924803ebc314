"""A disk that fails, or a process that dies, at the n-th change to the files below a folder."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from fewclip.errors import OutputError

CHANGES = ("open", "mkdir", "write", "pwrite", "ftruncate", "fsync", "replace", "unlink", "rmdir")
NEEDS_ROOM = ("open", "mkdir", "write", "pwrite", "fsync")
"""What a full disk refuses."""


class Death(BaseException):
    """In place of `kill -9`: no handler may do anything any more, since every further operation raises it too."""


class Faulty:
    """Counts changes below `root` while it is entered, keeps them in `log`, and makes the one numbered `at` go wrong.

    fault: "death" before it; "torn": death behind it, or in the middle of what it writes; an errno, of this one; "full": no
    room from there on.
    """

    def __init__(self, root: Path, at: int | None = None, fault: str | int = "death") -> None:
        self.root, self.at, self.fault = str(root.resolve()), at, fault
        self.log: list[tuple[str, str]] = []
        self.dead = self.full = False
        self._opened: dict[int, str] = {}
        self._close = os.close
        self._patches = [patch.object(os, name, self._watched(name, getattr(os, name))) for name in CHANGES]
        self._patches.append(patch.object(os, "close", self._closed))

    def __enter__(self) -> Faulty:
        for each in self._patches:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in reversed(self._patches):
            each.stop()
        for descriptor in self._opened:  # as the system does when a process dies
            self._close(descriptor)

    @property
    def happened(self) -> bool:
        """Whether there was an operation `at`."""
        return self.at is not None and len(self.log) > self.at

    def _closed(self, descriptor: int) -> None:
        self._opened.pop(descriptor, None)
        self._close(descriptor)

    def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(target: Any, *arguments: Any, **more: Any) -> Any:
            path = self._opened.get(target) if isinstance(target, int) else os.path.abspath(os.fspath(target))
            if path is None or not f"{path}/".startswith(f"{self.root}/"):
                return real(target, *arguments, **more)
            if self.dead:
                raise Death
            if name != "open" or arguments[0] & os.O_CREAT:
                self._fail(name, path, target, arguments, more, real)
            result = real(target, *arguments, **more)
            if name == "open":
                self._opened[result] = path
            return result

        return operation

    def _fail(self, name: str, path: str, target: Any, arguments: Any, more: Any, real: Callable[..., Any]) -> None:
        number = len(self.log)
        self.log.append((name, path))
        if self.full and name in NEEDS_ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if number != self.at:
            return
        if isinstance(self.fault, int):
            raise OSError(self.fault, os.strerror(self.fault))
        if self.fault == "full":
            self.full = True
            if name in NEEDS_ROOM:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return
        self.dead = True
        if self.fault == "torn":
            if name in ("write", "pwrite"):
                arguments = (bytes(arguments[0])[: len(arguments[0]) // 2], *arguments[1:])
            done = real(target, *arguments, **more)
            if name == "open":
                self._opened[done] = path
        raise Death


@pytest.fixture(autouse=True)
def no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine lives on in every test here, so what was written is there."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def attempts(folder: Path, work: Callable[[], object], faults: Sequence[str | int]) -> Iterator[tuple[Faulty, str]]:
    """`work` with each fault at each of its file operations, and how it ended: died, refused, or done all the same.

    Yields after each attempt, for the folder to be looked at and made anew.
    """
    for fault in faults:
        number = 0
        while True:
            with Faulty(folder, number, fault) as faulty:
                try:
                    work()
                    end = "done"
                except Death:
                    end = "died"
                except OutputError:
                    end = "refused"
            yield faulty, end
            if not faulty.happened:
                assert number > 5
                break
            number += 1


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()
