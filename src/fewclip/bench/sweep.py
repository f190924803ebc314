"""Many runs: which they are, which of them are not finished yet, and their rows in one file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from fewclip.bench.ablations import variants
from fewclip.bench.presets import settings_by_target, settings_for
from fewclip.bench.protocols import PROTOCOLS, Bench, find_protocol
from fewclip.bench.rows import ROWS, Row, append_rows, failed_row, finished_runs, measured_rows, read_rows
from fewclip.bench.run import UNFINISHED, Run, Where, backbone, dataset_key, read
from fewclip.clip.templates import find_template
from fewclip.errors import FewclipError, OutputError, SettingsError
from fewclip.files.lock import only_writer
from fewclip.files.write import clear
from fewclip.methods import METHODS, find
from fewclip.methods.settings import suggestion
from fewclip.training.settings import TrainSettings, split_settings
from fewclip.workers.progress import Progress

Finish = Callable[[Run, list[Row]], None]
"""Called by an executor with each run and its rows, as soon as it has ended."""


Executor = Callable[[Sequence[Run], Where, Finish], None]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What to compare. Empty `datasets`, `targets` and `shots` mean those of the protocol."""

    protocols: tuple[str, ...]
    """Names in `fewclip.bench.protocols.PROTOCOLS`."""
    methods: tuple[str, ...]
    """Names in `fewclip.methods.METHODS`, or all."""
    datasets: tuple[str, ...] = ()
    """Data sets to train on."""
    targets: tuple[str, ...] = ()
    """Further data sets to test on, in the transfer protocols."""
    seeds: tuple[int, ...] = (1, 2, 3)
    shots: tuple[int, ...] = ()
    """Training images per class."""
    preset: str = "fair"
    """fair or paper."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Of training or of methods; they override the preset."""
    backbone: str = "icon-clip"
    template: str | None = None
    """A prompt template instead of each data set's own."""
    ablation: str | None = None
    """Run the variants of this ablation instead of each method once."""

    def runs(self) -> list[Run]:
        """Every run of this sweep, in order.

        Raises:
            SettingsError: an unknown name, nothing to run, or a setting that no method has or that is out of its range.
            PromptError: a template without a place for the class name.
        """
        for name in ("protocols", "methods", "seeds"):
            if not getattr(self, name):
                raise SettingsError(f"{name} is empty, so there is nothing to run: give at least one.")
        methods = tuple(METHODS) if self.methods == ("all",) else self.methods
        for name in methods:
            find(name)
        self._check_settings(methods)
        runs = list(self._expand(methods))
        for run in runs:  # each would fail with the same sentence, but one at a time and after its data was read
            split_settings(run.method, {"seed": run.seed, **run.settings})
        if self.template is not None:
            find_template(self.template)
        return runs

    def _expand(self, methods: Sequence[str]) -> Iterator[Run]:
        for protocol in map(find_protocol, self.protocols):
            for dataset in map(dataset_key, self.datasets or protocol.sources):
                targets = tuple(t for t in map(dataset_key, self.targets or protocol.targets) if t != dataset)
                for method in methods:
                    if protocol.new_classes and not self._answers_new(method):
                        if self.methods == ("all",):
                            continue
                        raise SettingsError(
                            f"{method} does not score classes that it was not trained on, which {protocol.name} tests: leave it "
                            "out, or use few-shot."
                        )
                    by_target = {t: settings_by_target(self.preset, protocol.name, method, t) for t in targets}
                    for variant, varied in self._variants(method):
                        for shots in self.shots or protocol.shots:
                            preset = settings_for(self.preset, protocol.name, method, dataset, shots)
                            for seed in self.seeds:
                                yield Run(
                                    protocol=protocol.name,
                                    method=method,
                                    source=dataset,
                                    targets=targets,
                                    seed=seed,
                                    shots=shots,
                                    preset=self.preset,
                                    settings=preset | self._of(method) | varied,
                                    target_settings={t: s for t, s in by_target.items() if s},
                                    backbone=self.backbone,
                                    template=self.template,
                                    ablation=self.ablation,
                                    variant=variant,
                                )

    def _answers_new(self, method: str) -> bool:
        """Whether it knows classes that it was not trained on, under the settings of this sweep."""
        _, settings = split_settings(method, self._of(method))
        return find(method).answers_new_with(settings)

    def _variants(self, method: str) -> Iterable[tuple[str | None, dict[str, Any]]]:
        if self.ablation is None:
            return [(None, {})]
        config = backbone(self.backbone).config
        return variants(self.ablation, method, min(config.vision_layers, config.text_layers)).items()

    def _of(self, method: str) -> dict[str, Any]:
        """The settings that training or this method has."""
        known = _fields(TrainSettings) | _fields(find(method).Settings)
        return {k: v for k, v in self.settings.items() if k in known}

    def _check_settings(self, methods: Sequence[str]) -> None:
        known = _fields(TrainSettings).union(*(_fields(find(m).Settings) for m in methods))
        unknown = sorted(set(self.settings) - known)
        if unknown:
            raise SettingsError(
                f"Neither training nor {' or '.join(methods)} has a setting {unknown[0]!r}{suggestion(unknown[0], known)}: there are "
                f"{', '.join(sorted(known))}."
            )
        if "seed" in self.settings:
            raise SettingsError("seed can't be given as a setting of a sweep: give the seeds, such as --seeds 1,2,3.")


def _fields(kind: type) -> set[str]:
    return {f.name for f in fields(kind)}


def check_data(runs: Iterable[Run], root: str | None) -> None:
    """Read every data set of the runs once, before anything is trained.

    Raises:
        DataError: one of them can't be used.
    """
    for source in dict.fromkeys(run.source for run in runs):
        read(source, "train", root)
        read(source, "test", root)
    for target in dict.fromkeys(target for run in runs for target in run.targets):
        read(target, "test", root)


def sweep(runs: Sequence[Run], where: Where, executor: Executor, *, quiet: bool = False) -> list[Row]:
    """Execute the runs that are not finished yet, and return the rows of all of them.

    Each run's rows are added to `out`/rows.jsonl when it ends, so that no finished run is lost whatever stops the sweep, and
    the same call resumes it. A failed run is recorded and tried again by the next call.

    Raises:
        OutputError: the folder can't be written to, or another sweep is writing to it.
        DataError: a data set that can't be used, before anything is trained.
    """
    path = Path(where.out) / ROWS
    with only_writer(Path(where.out)):
        finished = finished_runs(read_rows(path)) if path.exists() else set()
        tidy(where, finished)
        wanted = {run.name: run for run in runs}
        left = [run for name, run in wanted.items() if name not in finished]
        check_data(left, where.root)
        done = len(wanted) - len(left)
        with Progress("bench", len(wanted), "runs", shown=not quiet) as progress:
            if done:
                progress.print(f"{done} of {len(wanted)} runs are already done.")
            progress.update(done)

            def warn(line: str) -> None:  # also where only JSON is asked for
                progress.print(line) if progress.shown else print(line, file=sys.stderr)

            def finish(run: Run, rows: list[Row]) -> None:
                append_rows(path, rows)
                where.checkpoint(run).unlink(missing_ok=True)
                if note := rows[0].get("note"):
                    warn(f"{run.name}: {note}.")
                progress.print(f"[{progress.done + 1}/{len(wanted)}] {run.name}: {', '.join(describe(rows))}")
                progress.update(progress.done + 1)

            if left:
                executor(left, where, finish)
        return [row for row in read_rows(path) if row["run"] in wanted] if path.exists() else []


def tidy(where: Where, finished: set[str]) -> None:
    """Delete useless files that killed sweeps left: half-written ones, and checkpoints of runs that are finished."""
    unfinished = Path(where.out, UNFINISHED)
    clear(unfinished, "*")
    for name in finished:
        (unfinished / f"{name}.safetensors").unlink(missing_ok=True)


def execute(run: Run, where: Where) -> list[Row]:
    """All rows of a run; of one that fails, a single row with the error.

    Raises:
        OutputError: its checkpoint can't be written, so that no further run could be kept either.
    """
    bench = Bench(run, where)
    try:
        tested = list(PROTOCOLS[run.protocol].measure(bench))
    except OutputError:
        raise
    except FewclipError as error:
        return [failed_row(run, str(error))]
    except Exception as error:  # a bug or a missing resource in one run leaves the others
        return [failed_row(run, f"{type(error).__name__}: {error}"[:2000])]
    return measured_rows(run, tested, bench.note)


def describe(rows: list[Row]) -> Iterator[str]:
    """The results of a run in words: "base 71.2", …"""
    for row in rows:
        if row["status"] == "failed":
            yield f"failed: {row['error']}"
        else:
            where = row["dataset"] if row["dataset"] != row["source"] else row["split"]
            yield f"{where} {row['accuracy']:.1f}"
