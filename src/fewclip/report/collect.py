"""Rows -> groups that can be compared: what was run under the same conditions, by method, data set, split and seed."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fewclip.bench.presets.rules import TRANSFER
from fewclip.bench.protocols import PROTOCOLS
from fewclip.bench.rows import Row, read_rows
from fewclip.errors import DataError
from fewclip.report.names import dataset_order, method_order, method_title, slug
from fewclip.report.scores import BySeed, Score, average, average_harmonic, number

MOST_SHOTS = 1_000_000
FIXED = ("zero-shot",)
"""Methods that no seed changes, so that one seed is enough."""
Slot = tuple["Entry", str, str, int]


@dataclass(frozen=True)
class Scope:
    """Conditions that rows must share to be compared in one table."""

    protocol: str
    backbone: str
    preset: str
    shots: int | None
    """None: all images, or a protocol that varies them."""
    source: str | None
    """Of the transfer protocols."""
    ablation: str | None = None

    def key(self, kind: str) -> str:
        """A name for something made of this scope."""
        parts = self.ablation, self.protocol, self.source, self.backbone, self.preset, self.shots, kind
        return slug("-".join(str(part) for part in parts if part))


@dataclass(frozen=True)
class Entry:
    """A column of a table: a method, and what distinguishes it from others of the same name."""

    method: str
    variant: str = ""
    detail: str = ""

    @property
    def label(self) -> str:
        extra = ", ".join(text for text in (self.variant, self.detail) if text)
        return f"{method_title(self.method)} ({extra})" if extra else method_title(self.method)


@dataclass(frozen=True)
class Group:
    """All rows of a scope. A slot is (entry, data set, split, shots); shots are 0 where the protocol fixes them."""

    scope: Scope
    entries: tuple[Entry, ...]
    datasets: tuple[str, ...]
    shots: tuple[int, ...]
    slots: Mapping[Slot, Mapping[int, Row]]

    @property
    def targets(self) -> list[str]:
        """The data sets that were not trained on."""
        return [d for d in self.datasets if d != self.scope.source]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({seed for rows in self.slots.values() for seed in rows}))

    def values(
        self, entry: Entry, dataset: str, split: str, shots: int = 0, measure: str = "accuracy"
    ) -> dict[int, float]:
        rows = self.slots.get((entry, dataset, split, shots), {})
        return {seed: value for seed, row in sorted(rows.items()) if (value := number(row.get(measure))) is not None}

    def score(
        self,
        entry: Entry,
        split: str,
        shots: int = 0,
        measure: str = "accuracy",
        *,
        datasets: Sequence[str] | None = None,
    ) -> Score | None:
        """The average over data sets, by default all. The split "hm" is the harmonic mean of base and novel."""

        def each(split: str) -> list[BySeed]:
            return [
                self.values(entry, d, split, shots, measure) for d in (self.datasets if datasets is None else datasets)
            ]

        return average_harmonic(each("base"), each("novel")) if split == "hm" else average(each(split))

    def rows(self, entry: Entry, dataset: str | None = None) -> list[Row]:
        return [
            row
            for (e, d, _, _), rows in self.slots.items()
            if e == entry and dataset in (None, d)
            for row in rows.values()
        ]

    def expected(self, entry: Entry) -> int:
        """How many seeds a complete cell has."""
        return 0 if entry.method in FIXED else len(self.seeds)


def load(places: Sequence[str | Path]) -> list[Row]:
    """The rows of several results. A run that is in two of them counts with the last, a failed one only if no other
    succeeded.

    Raises:
        DataError: there are none, or a file does not hold rows.
    """
    runs: dict[str, list[Row]] = {}
    for place in places:
        of_place: dict[str, list[Row]] = defaultdict(list)
        for row in read_rows(place):
            _check(row, place)
            of_place[str(row["run"])].append(row)
        for run, rows in of_place.items():
            if rows[0]["status"] == "done" or runs.get(run, rows)[0]["status"] != "done":
                runs[run] = rows
    rows = [row for rows in runs.values() for row in rows]
    if not rows:
        raise DataError(f"There is no result in {', '.join(map(str, places))}: no run has finished there yet.")
    return rows


def _check(row: Row, place: str | Path) -> None:
    """Refuse a row of a finished run without the fields that place it, or with values that no run writes."""
    if row["status"] != "done":
        return
    wrong = [
        name for name in ("protocol", "method", "source", "dataset", "split") if not isinstance(row.get(name), str)
    ]
    seed, shots, accuracy = row.get("seed"), row.get("shots"), number(row.get("accuracy"))
    wrong += [] if isinstance(seed, int) and abs(seed) < 1 << 64 else ["seed"]
    wrong += [] if shots is None or (isinstance(shots, int) and 0 <= shots <= MOST_SHOTS) else ["shots"]
    wrong += [] if accuracy is None or 0 <= accuracy <= 100 else ["accuracy"]
    wrong += [] if all(_is_confusion(c) for c in _listed(row, "confusions")) else ["confusions"]
    wrong += [] if all(_is_example(e) for e in _listed(row, "examples")) else ["examples"]
    if wrong:
        raise DataError(
            f"A row of the run {str(row['run'])!r} in {place} has no usable {', '.join(wrong)}: restore it, or delete the "
            "run's rows and run it again."
        )


def _listed(row: Row, name: str) -> list[Any]:
    """A list of a row; for anything else a list that no check accepts."""
    value = row.get(name)
    return [] if value is None else value if isinstance(value, list) else [None]


def _is_confusion(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and number(value[2]) is not None


def _is_example(value: Any) -> bool:
    return isinstance(value, dict) and {"key", "truth", "guess"} <= value.keys()


def collect(rows: Iterable[Row]) -> list[Group]:
    """The groups, in the order of protocols; those of ablations last.

    Raises:
        DataError: all rows are of unknown protocols.
    """
    by_scope: dict[Scope, list[Row]] = defaultdict(list)
    others = set()
    for row in rows:
        if row["status"] != "done" or number(row.get("accuracy")) is None:
            continue
        if row.get("protocol") not in PROTOCOLS:
            others.add(str(row.get("protocol")))
            continue
        by_scope[_scope(row)].append(row)
    if others and not by_scope:
        raise DataError(
            f"The results are of {', '.join(sorted(others))}, but a report is made of {', '.join(PROTOCOLS)}."
        )
    _join_without_shots(by_scope)
    order = list(PROTOCOLS)
    scopes = sorted(
        by_scope,
        key=lambda s: (s.ablation or "", order.index(s.protocol), s.backbone, s.preset, s.source or "", s.shots or 0),
    )
    return [_group(scope, by_scope[scope]) for scope in scopes]


def _scope(row: Row) -> Scope:
    protocol = row["protocol"]
    return Scope(
        protocol,
        str(row.get("backbone")),
        str(row.get("preset")),
        None if protocol == "few-shot" else row.get("shots"),
        str(row.get("source")) if protocol in TRANSFER else None,
        None if row.get("ablation") is None else str(row["ablation"]),
    )


def _join_without_shots(by_scope: dict[Scope, list[Row]]) -> None:
    """Methods that use no training image are shown beside all others of the same conditions."""
    for scope in [s for s, rows in by_scope.items() if all(row["method"] in FIXED for row in rows)]:
        hosts = [s for s in by_scope if s != scope and replace(s, shots=scope.shots) == scope]
        hosts = [s for s in hosts if any(row["method"] not in FIXED for row in by_scope[s])]
        for host in hosts:
            if not any(row["method"] in FIXED for row in by_scope[host]):
                by_scope[host] += by_scope[scope]
        if hosts:
            del by_scope[scope]


def _group(scope: Scope, rows: list[Row]) -> Group:
    details = _details(rows)
    slots: dict[Slot, dict[int, Row]] = defaultdict(dict)
    for row in sorted(rows, key=lambda row: str(row.get("finished"))):  # of two with the same place, the later counts
        entry = Entry(str(row["method"]), _variant(row), details[id(row)])
        slots[(entry, str(row["dataset"]), str(row["split"]), _shots(row))][int(row["seed"])] = row
    entries = {slot[0]: None for slot in slots}
    return Group(
        scope,
        tuple(sorted(entries, key=lambda e: (method_order(e.method), bool(e.variant)))),
        tuple(sorted({slot[1] for slot in slots}, key=dataset_order)),
        tuple(sorted({slot[3] for slot in slots})),
        dict(slots),
    )


def _shots(row: Row) -> int:
    return int(row.get("shots") or 0) if row["protocol"] == "few-shot" else 0


def _variant(row: Row) -> str:
    """The variant's name. A setting chosen by target differs from target to target, but is one way to predict."""
    return re.sub(r"(\w+) [^\s,]+ by target", r"\1 by target", str(row.get("variant") or ""))


def _details(rows: list[Row]) -> dict[int, str]:
    """By identity of the row: the settings that tell it apart from runs that differ in nothing else."""
    slots: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        slots[(row["method"], _variant(row), row["dataset"], row["split"], _shots(row), row["seed"])].append(row)
    # Two rows in one place are of the same run repeated, or of runs under other settings: those that differ name them.
    differing: dict[str, set[str]] = defaultdict(set)
    for twins in slots.values():
        flat = [_flat(row) for row in twins]
        for name in set().union(*flat):
            if len({repr(f.get(name)) for f in flat}) > 1:
                differing[twins[0]["method"]].add(name)
    details = {}
    for row in rows:
        names, settings = sorted(differing[row["method"]])[:4], _flat(row)
        details[id(row)] = ", ".join(f"{name} {settings.get(name)}" for name in names)
    return details


def _flat(row: Row) -> dict[str, Any]:
    """The settings that a user may have chosen."""
    fields = {name: row.get(name) for name in ("template", "candidates", "backbone_fingerprint")}
    for part in ("settings", "training"):
        if isinstance(row.get(part), dict):
            fields |= row[part]
    return fields
