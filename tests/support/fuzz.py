"""Fuzz everything that reads bytes for some minutes, and count: `PYTHONPATH=src python tests/support/fuzz.py --minutes 10`.

What is no error of ours is printed with its traceback and kept in a file; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import pickle
import platform
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz_targets import TARGETS, Target, attempt
from hypothesis import HealthCheck, Phase, given, seed, settings

BATCH = 100
BOUND_MB, BOUND_SECONDS, BOUND_WALL = 600, 10.0, 200.0
"""What one example may add to the highest memory of the process, how long it may compute, and take in all."""


@dataclass
class Count:
    taken: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    grown_mb: float = 0.0
    crashes: Counter[str] = field(default_factory=Counter)

    @property
    def examples(self) -> int:
        return self.taken + self.refused + self.crashes.total()


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one(target: Target, case: Any, count: Count, keep: Path | None) -> None:
    """Try a case; a crash, too much memory or too much time is counted by where it comes from."""
    place = Path(tempfile.mkdtemp(prefix="fewclip-fuzz-case-"))
    before, started, began = peak_mb(), time.process_time(), time.monotonic()
    try:
        if attempt(target, case, place):
            count.taken += 1
        else:
            count.refused += 1
        trouble = None
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        where = traceback.extract_tb(error.__traceback__)
        mine = [
            f"{Path(f.filename).name}:{f.name}" for f in where if "fewclip" in f.filename or "/tests/" in f.filename
        ]
        trouble = f"{type(error).__name__} in {mine[-1] if mine else '?'}"
        if not count.crashes[trouble]:
            traceback.print_exc()
    finally:
        shutil.rmtree(place, ignore_errors=True)
    took, grown = time.process_time() - started, peak_mb() - before
    wall = time.monotonic() - began
    count.slowest, count.grown_mb = max(count.slowest, took), max(count.grown_mb, grown)
    if trouble is None and (took > BOUND_SECONDS or wall > BOUND_WALL or grown > BOUND_MB):
        trouble = f"{'large' if grown > BOUND_MB else 'slow'}: {took:.1f} of {wall:.1f} s, {grown:.0f} MB"
    if trouble is not None:
        if not count.crashes[trouble] and keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            with (keep / f"{target.name.replace(' ', '-')}-{len(count.crashes)}.pickle").open("wb") as file:
                pickle.dump(case, file)
            print(f"CRASH {target.name}: {trouble}: {case!r:.300}", file=sys.stderr, flush=True)
        count.crashes[trouble] += 1


def fuzz(target: Target, seconds: float, count: Count, keep: Path | None, start: int = 0) -> None:
    """Examples for so many seconds."""
    until = time.monotonic() + seconds
    number = start
    while time.monotonic() < until:

        @seed(number)
        @settings(
            max_examples=BATCH,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(target.cases())
        def run(case: Any) -> None:
            if time.monotonic() < until:
                one(target, case, count, keep)

        began = time.monotonic()
        run()
        count.seconds += time.monotonic() - began
        number += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--only", help="targets whose name holds this")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-crashes"), help="where cases that crash are kept")
    options = parser.parse_args()
    chosen = [t for t in TARGETS if not options.only or options.only in t.name]
    counts = {t.name: Count() for t in chosen}
    shares = sum(target.share for target in chosen)
    for target in chosen:
        for case in target.valid():  # also so that what is imported once is not counted
            one(target, case, Count(), None)
    rounds = max(1, int(options.minutes / 2))
    for turn in range(rounds):
        for target in chosen:
            seconds = 60 * options.minutes / rounds * target.share / shares
            fuzz(target, seconds, counts[target.name], options.keep, options.seed + 1_000_000 * turn)
            print(
                f"round {turn + 1} of {rounds}, {target.name}: {counts[target.name].examples:,}",
                file=sys.stderr,
                flush=True,
            )
    print(
        f"{platform.platform()}, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}, {options.minutes:g} min"
    )
    print(f"{'target':<28}{'examples':>9}{'taken':>9}{'refused':>9}{'slowest s':>11}{'MB':>6}{'crashes':>9}")
    for name, c in counts.items():
        crashes = c.crashes.total()
        print(f"{name:<28}{c.examples:>9,}{c.taken:>9,}{c.refused:>9,}{c.slowest:>11.2f}{c.grown_mb:>6.0f}{crashes:>9}")
        for trouble, times in c.crashes.most_common():
            print(f"    {times} × {trouble}")
    return 1 if any(c.crashes for c in counts.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
