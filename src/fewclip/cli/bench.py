"""`fewclip bench`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from inspect import cleandoc
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fewclip.bench.ablations import ABLATIONS
from fewclip.bench.executors import Local, Ray
from fewclip.bench.presets import PRESETS
from fewclip.bench.run import Where
from fewclip.bench.sweep import Sweep, sweep
from fewclip.classifier import DEFAULT_BACKBONE
from fewclip.cli.options import names, numbers
from fewclip.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class Bench:
    protocols: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PROTOCOL[,…]")]
    """base-to-novel: train on half of the classes, test each half separately. open: the same, tested among all classes.
    few-shot: train and test on all classes. cross-dataset, domain-generalization: train on one data set, test on others.
    Several with commas."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")]
    """Folder for the results. Runs that are already finished there are not repeated."""
    methods: Annotated[str, tyro.conf.arg(metavar="NAME,…")] = "zero-shot,mmrl,mmrlpp"
    """Methods to compare (see `fewclip methods`), or all."""
    datasets: Annotated[str, tyro.conf.arg(metavar="NAME,…")] = ""
    """Data sets to train on: published or embedded ones (see `fewclip data list`), or folders, below --root or anywhere. By
    default the protocol's: the 11 published ones, or ImageNet for cross-dataset and domain-generalization."""
    targets: Annotated[str, tyro.conf.arg(metavar="NAME,…")] = ""
    """cross-dataset and domain-generalization: data sets to test on; by default the papers'."""
    root: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder with the data sets; by default $FEWCLIP_DATA."""
    backbone: Annotated[str, tyro.conf.arg(metavar="NAME")] = DEFAULT_BACKBONE
    """The CLIP to adapt (see `fewclip backbones`)."""
    seeds: Annotated[str, tyro.conf.arg(metavar="N,…")] = "1,2,3"
    """One run for each seed: it decides which images are picked, initial values, order and augmentation."""
    shots: Annotated[str, tyro.conf.arg(metavar="N,…")] = ""
    """Training images per class; by default 16, and 1,2,4,8,16 for few-shot."""
    preset: Literal[PRESETS] = "fair"  # type: ignore[valid-type]
    """fair: the same settings for all data sets. paper: what the authors published for each."""
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE …")] = ()
    """Settings of training or of a method that override the preset, such as epochs=5 alpha=0.3."""
    template: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    """Prompt template, or the name of a preset template, instead of each data set's own."""
    ablation: Literal[ABLATIONS] | None = None  # type: ignore[valid-type]
    """Run the variants of one of the papers' ablations instead of each method once (mmrl and mmrlpp)."""
    executor: Literal["local", "ray"] = "local"
    """Run in processes of this machine, or on a Ray cluster."""
    processes: int = 1
    """local: how many runs at a time; they share the cores."""
    ray_address: Annotated[str, tyro.conf.arg(metavar="ADDRESS")] = "auto"
    """ray: auto for a running cluster, local for a new one on this machine, or an address."""
    cpus_per_run: float = 1
    """ray: cores per run."""
    gpus_per_run: float = 0
    """ray: GPUs per run, such as 1 or 0.25."""
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """cpu, cuda, …; by default a GPU if there is one."""
    dry_run: bool = False
    """List the runs and stop."""
    json: bool = False
    """Print the rows as JSON Lines."""


def bench(arguments: list[str]) -> int:
    """Compare methods: train and test each one under a protocol, on several data sets and with several seeds.

    Every run adds its results to OUT/rows.jsonl when it ends. Run the same command again to resume a sweep that was stopped;
    `fewclip report OUT` makes tables and plots. docs/protocols.md describes the protocols.

    Exit status: 0 if all runs succeeded, 1 if some failed (the same command tries them again), 2 for a mistake in the command."""
    options = tyro.cli(Bench, prog="fewclip bench", description=cleandoc(bench.__doc__ or ""), args=arguments)
    plan = Sweep(
        protocols=names(options.protocols),
        methods=names(options.methods),
        datasets=names(options.datasets),
        targets=names(options.targets),
        seeds=numbers("seeds", options.seeds),
        shots=numbers("shots", options.shots),
        preset=options.preset,
        settings=assignments(options.set),
        backbone=options.backbone,
        template=options.template,
        ablation=options.ablation,
    )
    runs = plan.runs()
    if options.dry_run:
        print("\n".join(run.name for run in runs))
        return 0
    where = Where(
        out=str(options.out.absolute()),
        root=None if options.root is None else str(options.root.absolute()),
        device=options.device,
    )
    executor = (
        Local(options.processes)
        if options.executor == "local"
        else Ray(options.ray_address, options.cpus_per_run, options.gpus_per_run)
    )
    rows = sweep(runs, where, executor, quiet=options.json)
    if options.json:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
    failed = [row for row in rows if row["status"] == "failed"]
    for row in failed:
        print(f"failed: {row['run']}: {row['error']}", file=sys.stderr)
    if not options.json:
        print(f"{len(runs)} runs, {len(rows)} rows in {options.out}. Next: fewclip report {options.out} -o report.html")
    return 1 if failed else 0


def assignments(pairs: tuple[str, ...]) -> dict[str, Any]:
    """NAME=VALUE pairs; a value that is valid JSON is read as JSON, any other as text.

    Raises:
        SettingsError: something without "=".
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not (name and sign):
            raise SettingsError(f"--set has {pair!r}, but NAME=VALUE is expected, such as epochs=5.")
        try:
            settings[name.replace("-", "_")] = json.loads(value)
        except ValueError:
            settings[name.replace("-", "_")] = value
    return settings
