"""A run: one training and all that is measured of it. What it is, where it is computed, and the data and backbone it names."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from fewclip.clip.model import CLIP
from fewclip.data.benchmarks.table import named
from fewclip.data.dataset import Dataset
from fewclip.data.embedded import EMBEDDED
from fewclip.data.read import read_data
from fewclip.files.read import exists
from fewclip.methods import find

UNFINISHED = "unfinished"
"""Folder in the output folder with the checkpoints of runs that have not finished."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that decides what a run computes; where and how fast it is computed is in `Where`."""

    protocol: str
    method: str
    source: str
    """Data set to train on: a published or embedded name, or a folder (below the root, or anywhere)."""
    targets: tuple[str, ...] = ()
    """Further data sets to test on (transfer protocols)."""
    seed: int = 1
    shots: int | None = 16
    """Training images per class; None: all."""
    preset: str = "fair"
    settings: dict[str, Any] = field(default_factory=dict)
    """Of the method and of training, where they differ from the defaults."""
    target_settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By target: settings for a second prediction, in addition to the usual one."""
    backbone: str = "icon-clip"
    template: str | None = None
    ablation: str | None = None
    variant: str | None = None

    @property
    def name(self) -> str:
        """Readable, unique to what the run computes, and usable as a file name."""
        words = [self.protocol, self.method, self.source, f"{self.shots or 'all'}shots", f"seed{self.seed}"]
        words += [f"{self.ablation}-{self.variant}"] if self.ablation else []
        searching = {"val": self.val} if self.val else {}
        plain = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(words)).strip("-.")[-120:]
        whole = json.dumps(asdict(self) | searching, sort_keys=True, ensure_ascii=False)
        return f"{plain}-{hashlib.sha256(whole.encode()).hexdigest()[:10]}"

    @property
    def val(self) -> Literal["", "few", "all"]:
        """The validation images that settings are chosen by, as in the method's published runs: only in few-shot under the
        preset `paper`, where such runs exist."""
        return find(self.method).published_val if (self.preset, self.protocol) == ("paper", "few-shot") else ""


@dataclass(frozen=True, kw_only=True)
class Where:
    """Where a run finds its data, where it computes, and where it keeps its unfinished state."""

    out: str
    """Folder for the rows."""
    root: str | None = None
    """Folder with the published data sets; None: $FEWCLIP_DATA."""
    device: str | None = None
    """cpu, cuda, …; None: a GPU if there is one."""

    def checkpoint(self, run: Run) -> Path:
        """The file with the state of an unfinished run."""
        return Path(self.out, UNFINISHED, f"{run.name}.safetensors")


@lru_cache(maxsize=16)
def read(name: str, split: str, root: str | None = None) -> Dataset:
    """A data set by its name in a run: embedded or published, else a folder or file below `root`, else any path.

    Raises:
        DataError: it is absent or unusable.
    """
    if name in EMBEDDED or named(name):
        return read_data(name, split, root=root)
    below = None if root is None else Path(root, name)
    return read_data(below if below is not None and exists(below) else Path(name), split)


@lru_cache(maxsize=2)
def backbone(name: str) -> CLIP:
    """The CLIP of that name, kept between the runs of a process."""
    return CLIP.from_pretrained(name)


def dataset_key(name: str) -> str:
    """The key of a published data set, whichever of its names is given; any other name as it is."""
    benchmark = named(name)
    return benchmark.key if benchmark else name
