"""Which deliberate mistakes in src do the tests catch? Every mistake of tests/mutants/*.toml is tried on a copy.

    python tests/mutate.py [--only TEXT] [--jobs 2] [--trust-tests]

A mistake is a text of one file, what replaces it, and the tests that must fail then:

    [[mutant]]
    name = "the rate is per step though the schedule is per epoch"
    file = "src/fewclip/training/settings.py"
    before = '''text that occurs exactly once in the file'''
    after = '''what replaces it'''
    tests = ["tests/training/test_training.py::test_schedule_of_ten_epochs"]

Printed for each: caught (its tests fail), survived (they pass), or broken (they do not run or fail without the mistake
too, or the text is not in the file exactly once). The exit status is 0 only if all are caught.

Each attempt is a fork of one process that has already imported torch and pytest, which saves seconds per attempt.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

ROOT = Path(__file__).parents[1]
PRELOADED = (
    "numpy",
    "torch",
    "PIL.Image",
    "safetensors.torch",
    "tokenizers",
    "pytest",
    "hypothesis",
    "rich.console",
    "tyro",
)
"""Slow imports that most tests need; never fewclip itself, which each attempt imports from its own copy."""
SECONDS = 180
"""The longest that an attempt may take."""
COPIED = (
    "src",
    "tests",
    "docs",
    "examples",
    "benchmarks",
    "pyproject.toml",
    "constraints.txt",
    "README.md",
    "Makefile",
    "Dockerfile",
)
FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Mutant:
    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]
    source: str = ""
    """The file of mutants that it is from."""

    def apply(self, root: Path) -> str:
        """Change the copy; returns what is wrong with the mutant, or nothing."""
        path = root / self.file
        if not self.file.startswith("src/") or not path.is_file():
            return f"there is no file {self.file} in src"
        text = path.read_text(encoding="utf-8")
        if (count := text.count(self.before)) != 1:
            return f"its text occurs {count} times in {self.file}"
        mutated = text.replace(self.before, self.after)
        if path.suffix == ".py":
            try:
                compile(mutated, self.file, "exec")
            except SyntaxError as error:
                return f"it is not valid Python: {error}"
        path.write_text(mutated, encoding="utf-8")
        return ""


@dataclass(frozen=True)
class Outcome:
    mutant: Mutant
    state: str
    seconds: float
    why: str = ""


def read(folder: Path) -> list[Mutant]:
    """All mutants of a folder's .toml files."""
    return [
        Mutant(**(entry | {"tests": tuple(entry["tests"]), "source": path.stem}))
        for path in sorted(folder.glob("*.toml"))
        for entry in tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]
    ]


def copy(root: Path, place: Path) -> Path:
    """A copy of the repository in `place`, without compiled files, which could hide a change of the same second."""
    target = place / "repository"
    target.mkdir(parents=True)
    ignore = shutil.ignore_patterns("__pycache__", ".*", "*.egg-info")
    for name in COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, target / name, ignore=ignore)
        elif (root / name).exists():
            shutil.copy(root / name, target / name)
    if (shared := root.parent / "shared").is_dir():
        (place / "shared").symlink_to(shared.resolve())
    return target


class Recorder:
    """Outcomes of the tests of one run, by node id; a test that fails in its set-up has failed."""

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.nodeid] = report.outcome


def run_tests(root: Path, tests: Sequence[str], stop: bool) -> tuple[int, dict[str, str], str]:
    """Exit status of pytest (-1: too slow), outcome of each test, and the end of what was printed."""
    with tempfile.TemporaryDirectory() as folder:
        log, result = Path(folder) / "log", Path(folder) / "result"
        process = FORK.Process(target=_in_a_fork, args=(root, tests, stop, log, result))
        process.start()
        process.join(SECONDS)
        late = process.is_alive()
        if late and process.pid is not None:
            os.killpg(process.pid, signal.SIGKILL)  # the tests' own child processes too
        process.join()
        outcomes = json.loads(result.read_text()) if result.exists() else {}
        text = log.read_text(errors="replace") if log.exists() else ""
        return (-1 if late else process.exitcode or 0), outcomes, text[-2000:]


def _in_a_fork(root: Path, tests: Sequence[str], stop: bool, log: Path, result: Path) -> None:
    import pytest

    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.chdir(root)
    os.environ["PYTHONPATH"] = str(root / "src")
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    sys.path[:] = [str(root / "src")] + [path for path in sys.path if not Path(path).is_relative_to(ROOT / "src")]
    recorder = Recorder()
    arguments = ["--rootdir", str(root), "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=short", *["-x"] * stop]
    status = pytest.main([*arguments, *tests], plugins=[recorder])
    result.write_text(json.dumps(recorder.outcomes))
    sys.stdout.flush()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)  # what a failed test may have left running: this fork leads a group of its own
    os._exit(int(status))


def healthy(root: Path, tests: Iterable[str]) -> dict[str, str]:
    """What is wrong with each test where nothing was changed; tests of one file are run together."""
    wrong: dict[str, str] = {}
    tests = list(tests)
    status, outcomes, text = run_tests(root, tests, stop=False)
    if status not in (0, 1) and len(tests) > 1:  # one of them does not exist: find out which
        for test in tests:
            wrong |= healthy(root, [test])
        return wrong
    for test in tests:
        of_test = [o for node, o in outcomes.items() if node == test or node.startswith((f"{test}[", f"{test}::"))]
        if not of_test:
            wrong[test] = f"{test} does not run: {text.strip().splitlines()[-1:]}"
        elif "failed" in of_test:
            wrong[test] = f"{test} fails without the mistake"
        elif "passed" not in of_test:
            wrong[test] = f"{test} is skipped here"
    return wrong


def attempt(root: Path, mutant: Mutant, wrong: dict[str, str]) -> Outcome:
    start = time.monotonic()
    original = (root / mutant.file).read_text(encoding="utf-8") if (root / mutant.file).is_file() else None
    why = "; ".join(wrong[test] for test in mutant.tests if test in wrong) or mutant.apply(root)
    state = "broken"
    if not why:
        status, outcomes, text = run_tests(root, mutant.tests, stop=True)
        if status == 1 and "failed" in outcomes.values():
            state = "caught"
        elif status == 0:
            state = "survived"
        else:
            why = f"too slow: over {SECONDS} s" if status == -1 else f"pytest ended with {status}: {text}"
    if original is not None:
        (root / mutant.file).write_text(original, encoding="utf-8")
    return Outcome(mutant, state, time.monotonic() - start, why)


def try_all(mutants: Sequence[Mutant], root: Path = ROOT, jobs: int = 2, healthy_first: bool = True) -> list[Outcome]:
    """Every mutant on a copy of the repository, `jobs` at a time, each job with a copy of its own.

    `healthy_first`: first see that the tests pass where nothing was changed.
    """
    for module in PRELOADED:
        importlib.import_module(module)
    import torch

    torch.set_num_threads(1)  # a fork must not inherit threads that computed
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(jobs):
            copies.put(copy(root, Path(folder) / str(number)))

        def with_copy(function: Any, *arguments: Any) -> Any:
            place = copies.get()
            try:
                return function(place, *arguments)
            finally:
                copies.put(place)

        files: dict[str, dict[str, None]] = {}
        for mutant in mutants:
            for test in mutant.tests:
                files.setdefault(test.partition("::")[0], {})[test] = None
        with ThreadPoolExecutor(jobs) as pool:
            wrong: dict[str, str] = {}
            for part in pool.map(lambda tests: with_copy(healthy, tests), files.values() if healthy_first else ()):
                wrong |= part
            return list(pool.map(lambda mutant: with_copy(attempt, mutant, wrong), mutants))


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description="Which deliberate mistakes in src do the tests catch?")
    parser.add_argument("--only", default="", metavar="TEXT", help="only mutants with this text in their name or file")
    parser.add_argument("--jobs", type=int, default=2, help="attempts at a time")
    parser.add_argument(
        "--trust-tests", action="store_true", help="do not run the tests without a mistake first: they have just passed"
    )
    options = parser.parse_args(arguments)
    mutants = [m for m in read(root / "tests" / "mutants") if options.only in f"{m.source} {m.name} {m.file}"]
    if not mutants:
        print("no mutants")
        return 1
    start = time.monotonic()
    outcomes = try_all(mutants, root, options.jobs, not options.trust_tests)
    for outcome in outcomes:
        print(f"{outcome.state:<9}{outcome.seconds:6.1f} s  {outcome.mutant.source}: {outcome.mutant.name}")
        if outcome.why:
            print(f"    {outcome.why}")
    states = [outcome.state for outcome in outcomes]
    counts = ", ".join(f"{states.count(state)} {state}" for state in ("caught", "survived", "broken"))
    print(f"{counts} of {len(outcomes)}, {time.monotonic() - start:.0f} s")
    return 0 if set(states) == {"caught"} else 1


if __name__ == "__main__":
    sys.exit(main())
