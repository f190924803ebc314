"""Means over seeds and data sets, as the papers compute them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fewclip.bench.evaluation import harmonic_mean

BySeed = Mapping[int, float]
"""One number per seed."""


@dataclass(frozen=True)
class Score:
    """A mean, the population standard deviation over seeds (None of a single one), how many seeds, how many data sets."""

    mean: float
    sd: float | None = None
    seeds: int = 1
    datasets: int = 1


LARGEST = 1e15
"""The largest value of any measure; a row with more is damaged."""


def number(value: Any) -> float | None:
    """A number up to `LARGEST`, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= LARGEST:
        return None
    return float(value)


def average(parts: Sequence[BySeed]) -> Score | None:
    """The mean of the data sets' means; its deviation is over the averages of the seeds that all of them have."""
    parts = [part for part in parts if part]
    if not parts:
        return None
    mean = statistics.fmean(statistics.fmean(part.values()) for part in parts)
    return Score(mean, _sd(list(averages_by_seed(parts).values())), min(map(len, parts)), len(parts))


def averages_by_seed(parts: Sequence[BySeed]) -> dict[int, float]:
    """Of the seeds that all data sets have, each one's average."""
    common = sorted(set(parts[0]).intersection(*parts[1:]))
    return {seed: statistics.fmean(part[seed] for part in parts) for seed in common}


def average_harmonic(base: Sequence[BySeed], novel: Sequence[BySeed]) -> Score | None:
    """The harmonic mean of the average base and the average novel accuracy (not the mean of harmonic means), over the
    data sets that have both."""
    pairs = [(b, n) for b, n in zip(base, novel, strict=True) if b and n]
    bases, novels = average([b for b, _ in pairs]), average([n for _, n in pairs])
    if bases is None or novels is None:
        return None
    by_seed = averages_by_seed([b for b, _ in pairs]), averages_by_seed([n for _, n in pairs])
    means = [harmonic_mean(by_seed[0][s], by_seed[1][s]) for s in by_seed[0].keys() & by_seed[1].keys()]
    return Score(harmonic_mean(bases.mean, novels.mean), _sd(means), min(bases.seeds, novels.seeds), len(pairs))


def _sd(values: list[float]) -> float | None:
    return statistics.pstdev(values) if len(values) > 1 else None
