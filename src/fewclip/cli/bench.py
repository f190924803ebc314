"""`fewclip bench`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
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
    """base-to-novel, open, few-shot, cross-dataset, domain-generalization; several with commas."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")]
    """Folder for the rows. With rows of the same runs in it, only the others are run."""
    methods: Annotated[str, tyro.conf.arg(metavar="NAME,…")] = "zero-shot,mmrl,mmrlpp"
    """Methods (see `fewclip methods`), or all."""
    datasets: Annotated[str, tyro.conf.arg(metavar="NAME,…")] = ""
    """Data sets to train on: published names (see `fewclip data list`), embedded ones, folders below the root or anywhere.
    By default the protocol's: the 11 published ones, or ImageNet for cross-dataset and domain-generalization."""
    targets: Annotated[str, tyro.conf.arg(metavar="NAME,…")] = ""
    """cross-dataset and domain-generalization: data sets to test on; by default the papers'."""
    root: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder that holds the data sets; by default $FEWCLIP_DATA."""
    backbone: Annotated[str, tyro.conf.arg(metavar="NAME")] = DEFAULT_BACKBONE
    """The CLIP to adapt (see `fewclip backbones`)."""
    seeds: Annotated[str, tyro.conf.arg(metavar="N,…")] = "1,2,3"
    """Seeds of the picks, the start, the order and the augmentation."""
    shots: Annotated[str, tyro.conf.arg(metavar="N,…")] = ""
    """Training images of each class; by default the protocol's: 16, or 1,2,4,8,16 for few-shot."""
    preset: Literal[PRESETS] = "fair"  # type: ignore[valid-type]
    """fair: one setting for all data sets. paper: what the authors published for each."""
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE …")] = ()
    """Settings of training or of a method, over those of the preset, such as epochs=5 alpha=0.3."""
    template: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    """Prompt template, or a preset of one, in place of each data set's own."""
    ablation: Literal[ABLATIONS] | None = None  # type: ignore[valid-type]
    """Run the variants of one of the papers' ablations instead of each method once (mmrl and mmrlpp)."""
    executor: Literal["local", "ray"] = "local"
    """Processes of this machine, or a Ray cluster."""
    processes: int = 1
    """local: runs at a time; they share the cores."""
    ray_address: Annotated[str, tyro.conf.arg(metavar="ADDRESS")] = "auto"
    """ray: auto for a running cluster, local for a new one on this machine, or an address."""
    cpus_per_run: float = 1
    """ray: cores of each run."""
    gpus_per_run: float = 0
    """ray: GPUs of each run, such as 1 or 0.25."""
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """cpu, cuda, …; by default a GPU if there is one."""
    dry_run: bool = False
    """List the runs and stop."""
    json: bool = False
    """Print the rows as JSON Lines."""


def bench(arguments: list[str]) -> int:
    """Train and test methods on data sets by a protocol: many runs, resumable, one row of results for each thing tested.

    Exit status: 0 all runs are done, 1 some failed (their rows say why; the same command tries them again)."""
    options = tyro.cli(Bench, prog="fewclip bench", description=bench.__doc__, args=arguments)
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
    """NAME=VALUE pairs, the values read as JSON where they are, else as text.

    Raises:
        SettingsError: something without "=".
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not (name and sign):
            raise SettingsError(f"--set has {pair!r}, but NAME=VALUE is expected, such as epochs=5.")
        try:
            found[name.replace("-", "_")] = json.loads(value)
        except ValueError:
            found[name.replace("-", "_")] = value
    return found
