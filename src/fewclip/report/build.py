"""Rows -> a report: headline, facts and tables in order, before anything is drawn or written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fewclip.bench.presets.rules import HALVES, TRANSFER
from fewclip.bench.rows import Row
from fewclip.report import ablations, costs, layouts, published
from fewclip.report.collect import Entry, Group, collect
from fewclip.report.layouts import averages, marks
from fewclip.report.mistakes import confusions
from fewclip.report.names import dataset_title, is_reference, method_title, protocol_title
from fewclip.report.tables import Cell, Line, Table, cell, mark_columns

TITLE = "Few-shot adaptation of a frozen CLIP"


@dataclass(frozen=True)
class Section:
    """The tables of one group."""

    title: str
    conditions: str
    """What distinguishes it from other sections of that title."""
    group: Group
    tables: tuple[Table, ...]
    confusions: tuple[tuple[str, Table], ...] = ()
    """By data set."""


@dataclass(frozen=True)
class Report:
    title: str
    headline: str
    caveats: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    summary: tuple[Table, ...]
    sections: tuple[Section, ...]
    failed: Table | None
    labels: tuple[str, ...]
    """Of all methods that are drawn, in order."""
    plain: tuple[str, ...]
    """Those of methods that train nothing."""


def build(rows: Sequence[Row], title: str = TITLE) -> Report:
    """A report of these rows.

    Raises:
        DataError: none of them is of a known protocol.
    """
    groups = collect(rows)
    usual = [group for group in groups if group.scope.ablation is None]
    entries = list(dict.fromkeys(entry for group in usual for entry in group.entries))
    entries.sort(key=lambda e: (e.method not in ("mmrl", "mmrlpp"), bool(e.variant or e.detail)))  # the first colours
    return Report(
        title,
        _headline(usual),
        tuple(_caveats(groups)),
        tuple(_facts(rows, groups)),
        tuple(_summaries(usual)),
        tuple(_section(group) for group in groups),
        _failed(rows),
        tuple(dict.fromkeys(entry.label for entry in entries)),
        tuple(entry.label for entry in entries if entry.method == "zero-shot"),
    )


def _section(group: Group) -> Section:
    scope = group.scope
    conditions = [scope.backbone, f"{scope.preset} settings"]
    conditions += [f"{layouts.shots_title(scope.shots or 0).lower()} per class"] if scope.protocol != "few-shot" else []
    conditions += [f"trained on {dataset_title(scope.source)}"] if scope.source else []
    if scope.ablation is not None:
        title = f"Ablation: {ablations.title(scope.ablation).lower()}"
        conditions.insert(0, protocol_title(scope.protocol))
        return Section(title, ", ".join(conditions), group, tuple(ablations.tables(group)))
    tables = [*layouts.tables(group), published.comparison(group), layouts.calibration(group), costs.table(group)]
    return Section(
        protocol_title(scope.protocol),
        ", ".join(conditions),
        group,
        tuple(table for table in tables if table is not None),
        tuple((d, table) for d in group.datasets if (table := confusions(group, d)) is not None),
    )


def _headline(groups: Sequence[Group]) -> str:
    """The best method of the first protocol, in one sentence: over the data sets that all methods have, if any."""
    for whole in groups:
        # A method that was tested on easier data sets only would win, so those count that every method was tested on.
        shared = tuple(d for d in whole.datasets if all(whole.rows(e, d) for e in whole.entries))
        group = replace(whole, datasets=shared or whole.datasets)
        name = costs.headline(group)
        scores = {e: s for e in group.entries if (s := averages(group, e)[-1]) is not None}
        most = max((s.datasets for s in scores.values()), default=0)
        scores = {e: s for e, s in scores.items() if s.datasets == most}
        if not scores:
            continue
        best = max(scores, key=lambda e: scores[e].mean)
        sets = f"{most} data set{'s' * (most != 1)}" + " that all have" * (len(group.datasets) < len(whole.datasets))
        where = f"{protocol_title(group.scope.protocol, short=True)}, {sets}"
        sentence = f"{where}: {best.label} {'is best with' if len(scores) > 1 else 'has'} {scores[best].mean:.1f} %"
        sentence += f" ({name if name == 'HM' else name[0].lower() + name[1:]})"
        # The gain over zero-shot is that of the rounded numbers, which a reader can check in the table.
        zero = next((e for e in scores if e.method == "zero-shot" and e != best), None)
        if zero is None:
            return sentence + "."
        gain = round(scores[best].mean, 1) - round(scores[zero].mean, 1)
        return f"{sentence}, {gain:.1f} points above {zero.label}."
    return "No run has finished."


def _caveats(groups: Sequence[Group]) -> list[str]:
    others = list(dict.fromkeys(g.scope.backbone for g in groups if not is_reference(g.scope.backbone)))
    if not others:
        return []
    return [
        f"Made with {' and '.join(others)}, not with OpenAI’s ViT-B/16 of the papers: these numbers are not comparable with "
        "the published ones."
    ]


def _facts(rows: Sequence[Row], groups: Sequence[Group]) -> list[tuple[str, str]]:
    done = {row["run"] for row in rows if row["status"] == "done"}
    failed = {row["run"] for row in rows if row["status"] != "done"}
    shown = [row for group in groups for slots in group.slots.values() for row in slots.values()]
    days = sorted({str(row["finished"])[:10] for row in rows if row.get("finished")})
    methods = dict.fromkeys(e.method for g in groups for e in g.entries)
    datasets = dict.fromkeys(d for g in groups for d in g.datasets)
    facts = [
        ("Methods", ", ".join(map(method_title, methods))),
        ("Data sets", ", ".join(map(dataset_title, datasets))),
        ("Backbone", ", ".join(dict.fromkeys(g.scope.backbone for g in groups))),
        ("Settings", ", ".join(dict.fromkeys(g.scope.preset for g in groups))),
        ("Seeds", ", ".join(map(str, sorted({row["seed"] for row in shown})))),
        ("Runs", f"{len(done)} finished" + (f", {len(failed)} failed" if failed else "")),
        ("Date", days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}" if days else ""),
        ("Machine", "; ".join(dict.fromkeys(filter(None, (_machine(row.get("machine")) for row in rows))))),
        ("Versions", "; ".join(dict.fromkeys(filter(None, (_machine(row.get("versions")) for row in rows))))),
    ]
    return [(name, value) for name, value in facts if value]


def _machine(value: object) -> str:
    """A description as words."""
    if not isinstance(value, dict):
        return str(value or "")
    parts = []
    for name, part in value.items():
        if part in (None, ""):
            continue
        if isinstance(part, int):
            parts.append(f"{part} {name[:-1] if part == 1 and name.endswith('s') else name}")
        else:
            parts.append(f"{name} {part}" if name in ("fewclip", "torch", "python") else str(part))
    return ", ".join(parts)


def _summaries(groups: Sequence[Group]) -> list[Table]:
    """Averages of every protocol in one table, for each backbone and preset."""
    together: dict[tuple[str, str], list[Group]] = defaultdict(list)
    for group in groups:
        together[group.scope.backbone, group.scope.preset].append(group)
    return [_summary(backbone, preset, of_pair) for (backbone, preset), of_pair in together.items()]


def _summary(backbone: str, preset: str, groups: Sequence[Group]) -> Table:
    entries = list(dict.fromkeys(e for g in groups for e in g.entries))
    spans, columns = [], []
    cells: dict[Entry, list[Cell]] = {e: [] for e in entries}
    for group in groups:
        names = _columns(group)
        title = protocol_title(group.scope.protocol, short=True)
        # Groups of one protocol differ in their shots, or in what was trained on.
        twins = [g for g in groups if g.scope.protocol == group.scope.protocol]
        if len(twins) > 1:
            title += f", {group.scope.source or ''} {layouts.shots_title(group.scope.shots or 0).lower()}"
        spans.append((title, len(names)))
        columns += names
        # How many data sets each average should be over: in transfer the source is alone, and the targets are the others.
        sets = len(group.datasets) - (group.scope.protocol in TRANSFER)
        for entry in entries:
            scores = averages(group, entry)
            whole = [1] * (len(scores) - 1) + [sets] if group.scope.protocol in TRANSFER else [sets] * len(scores)
            cells[entry] += [cell(s, group.expected(entry), n) for s, n in zip(scores, whole, strict=True)]
    lines = mark_columns([Line(e.label, tuple(cells[e])) for e in entries])
    # A method has the same size wherever it was measured, so the first group that has it is enough.
    sizes = [next((c for g in groups if (c := costs.cost(g, e).parameters) is not None), None) for e in entries]
    lines = [Line(x.label, (*x.cells, Cell(n, digits=0))) for x, n in zip(lines, sizes, strict=True)]
    notes = (
        "Averages over data sets, in per cent, mean ± standard deviation over seeds. Best in bold. HM: harmonic mean."
    )
    return Table(
        "summary",
        f"At a glance: {backbone}, {preset} settings",
        "Method",
        (*columns, "Parameters"),
        tuple(lines),
        (*spans, ("Trained", 1)),
        (notes, *marks(lines)),
    )


def _columns(group: Group) -> list[str]:
    if group.scope.protocol in HALVES:
        return ["Base", "Novel", "HM"]
    if group.scope.protocol in TRANSFER:
        return [dataset_title(group.scope.source or ""), "Targets"]
    return [layouts.shots_title(max(group.shots))]


def _failed(rows: Sequence[Row]) -> Table | None:
    columns = {"Protocol": "protocol", "Method": "method", "Data set": "source", "Seed": "seed", "Error": "error"}
    lines = []
    for row in rows:
        if row["status"] != "done":
            values = (row.get(name) for name in columns.values())
            lines.append(Line(str(row["run"]), tuple(Cell(text="" if v is None else str(v)) for v in values)))
    if not lines:
        return None
    notes = ("The same bench command runs them again.",)
    return Table(
        "failed", "Failed runs", "Run", tuple(columns), tuple(lines), notes=notes, text_columns=(0, 1, 2, 3, 4)
    )
