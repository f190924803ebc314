"""A run: one training, and what a protocol measures of it."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from fewclip.adapters.adapter import Adapter
from fewclip.bench.evaluation import evaluate, without
from fewclip.bench.machine import PeakMemory, machine, now, versions
from fewclip.bench.rows import Row
from fewclip.classifier import FewShotClassifier
from fewclip.clip.load import fingerprint
from fewclip.clip.model import CLIP
from fewclip.clip.templates import find_template
from fewclip.data.benchmarks.table import named
from fewclip.data.dataset import VAL_SHOTS, Dataset
from fewclip.data.embedded import EMBEDDED
from fewclip.data.read import read_data
from fewclip.data.validation import own_validation
from fewclip.errors import AdapterError, DataError
from fewclip.files.read import exists
from fewclip.methods import find

UNFINISHED, ADAPTERS = "unfinished", "adapters"


NOT_IN_ROWS = ("cache_mb", "checkpoint_seconds")


@dataclass(frozen=True, kw_only=True)
class Run:
    """All that decides what a run computes; where and how fast it is computed is in `Where`."""

    protocol: str
    method: str
    source: str
    """Data set trained on: a published or embedded name, or a folder (below the root, or anywhere)."""
    targets: tuple[str, ...] = ()
    """Further data sets to test on (transfer protocols)."""
    seed: int = 1
    shots: int | None = 16
    """Training images of each class; None: all."""
    preset: str = "fair"
    settings: dict[str, Any] = field(default_factory=dict)
    """Of method and training, where they differ from the defaults."""
    target_settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Settings to predict a target with besides the usual ones, by target."""
    backbone: str = "icon-clip"
    template: str | None = None
    ablation: str | None = None
    variant: str | None = None

    @property
    def name(self) -> str:
        """Readable, and different for anything different; a file's name too."""
        words = [self.protocol, self.method, self.source, f"{self.shots or 'all'}shots", f"seed{self.seed}"]
        words += [f"{self.ablation}-{self.variant}"] if self.ablation else []
        return f"{_plain('-'.join(words))}-{_digest(asdict(self) | self._searching())}"

    @property
    def val(self) -> Literal["", "few", "all"]:
        """The validation images that settings are chosen by, as in the method's published runs: in the preset `paper` and
        few-shot alone, where such runs exist."""
        return find(self.method).published_val if (self.preset, self.protocol) == ("paper", "few-shot") else ""

    def _searching(self) -> dict[str, str]:
        return {"val": self.val} if self.val else {}

    def training_name(self, classes: tuple[str, ...]) -> str:
        """The same for runs that train the same, whatever they measure."""
        same = {k: v for k, v in asdict(self).items() if k in ("method", "source", "seed", "shots", "backbone")}
        scoring = find(self.method).score_settings
        trained = {k: v for k, v in self.settings.items() if k not in scoring}
        same |= {"settings": trained, "template": self.template, "classes": classes} | self._searching()
        words = [self.method, self.source, f"{self.shots or 'all'}shots", f"seed{self.seed}"]
        return f"{_plain('-'.join(words))}-{_digest(same)}"


@dataclass(frozen=True, kw_only=True)
class Where:
    """Where a run finds its data, computes, and keeps its unfinished state."""

    out: str
    """Folder for the rows."""
    root: str | None = None
    """Folder that holds the published data sets; None: $FEWCLIP_DATA."""
    device: str | None = None
    """cpu, cuda, …; None: a GPU if there is one."""
    keep_adapters: bool = False
    """Keep each trained adapter in `out`."""

    def checkpoint(self, run: Run) -> Path:
        """The file with the state of an unfinished run."""
        return Path(self.out, UNFINISHED, f"{run.name}.safetensors")


@lru_cache(maxsize=16)
def read(name: str, split: str, root: str | None = None) -> Dataset:
    """A data set by its name in a run: published or embedded, else a folder or file below `root`, else any.

    Raises:
        DataError: nothing usable is there.
    """
    if name in EMBEDDED:
        return read_data(name, split)
    if named(name):
        return read_data(name, split, root=root)
    below = None if root is None else Path(root, name)
    return read_data(below if below is not None and exists(below) else Path(name), split)


@lru_cache(maxsize=2)
def backbone(name: str) -> CLIP:
    """Kept between the runs of a process."""
    return CLIP.from_pretrained(name)


class Bench:
    """What a protocol works with: data, a classifier trained as the run says, rows."""

    def __init__(self, run: Run, where: Where) -> None:
        self.run, self.where = run, where
        self.memory = PeakMemory()

    def train(self) -> Dataset:
        """The images to pick shots from."""
        return read(self.run.source, "train", self.where.root)

    def test(self, name: str | None = None) -> Dataset:
        """The images to test on, by default those of the source."""
        return read(name or self.run.source, "test", self.where.root)

    def val(self, train: Dataset) -> Dataset | None:
        """The validation images that the run chooses settings by; None where it doesn't, or the data have none."""
        run = self.run
        if not run.val:
            return None
        try:
            val = own_validation(lambda split: read(run.source, split, self.where.root))
        except DataError:
            return None
        return val if run.val == "all" else train.few_shot_and_val(val, run.shots or VAL_SHOTS, run.seed)[1]

    def fit(self, train: Dataset) -> Adapter:
        """Train, from where an interrupted run of the same name stood; or load what such a training left."""
        run, clip = self.run, backbone(self.run.backbone)
        kept = Path(self.where.out, ADAPTERS, run.training_name(train.classes))
        if self.where.keep_adapters and kept.is_dir():
            try:
                return self._kept(kept, clip)
            except AdapterError:  # of a training that was cut off, or damaged: train anew
                pass
        model = FewShotClassifier(
            run.method,
            clip,
            shots=run.shots,
            template=run.template,
            device=self.where.device,
            **{"seed": run.seed, **run.settings},
        )
        model.fit(train, val=self.val(train), checkpoint=self.where.checkpoint(run))
        if self.where.keep_adapters:
            model.save(kept)
        return model.adapter_

    def _kept(self, folder: Path, clip: CLIP) -> Adapter:
        model = Adapter.load(folder, backbone=clip, device=self.where.device)
        kind = find(self.run.method)
        usual = {f.name: f.default for f in fields(kind.Settings)} | self.run.settings
        scoring = {name: usual[name] for name in kind.score_settings}
        return model.with_settings(**scoring) if scoring else model

    def row(
        self,
        model: Adapter,
        test: Dataset,
        split: str,
        *,
        candidates: str = "split",
        target: str | None = None,
        variant: str | None = None,
    ) -> Row:
        """Test and describe. `target`: another data set than the source, whose classes all count as new."""
        run = self.run
        if target is None:
            test = without(test, model.train_keys)  # data without a split of its own
            template = model.template
        else:
            template = find_template(run.template or test.template or "photo")
        result = evaluate(model, test, split, template=template, unseen=target is not None)
        return {
            "protocol": run.protocol,
            "preset": run.preset,
            "method": run.method,
            "settings": asdict(model.method.settings),
            "training": {k: v for k, v in model.training.settings.items() if k not in NOT_IN_ROWS},
            "ablation": run.ablation,
            "variant": variant or run.variant,
            "backbone": run.backbone,
            "backbone_fingerprint": fingerprint(model.clip),
            "source": run.source,
            "dataset": target or run.source,
            "template": template,
            "split": split,
            "candidates": candidates,
            "seed": run.seed,
            "shots": run.shots,
            "train_images": model.training.images,
            "val_images": model.training.val_images,
            "chosen": model.training.chosen,
            **{k: v for k, v in result.as_dict().items() if k not in ("split", "seconds")},
            "parameters": model.parameters,
            "train_seconds": model.training.seconds,
            "predict_seconds": result.seconds,
            "peak_memory_mb": self.memory.mb(),
            "gpu_memory_mb": self.memory.gpu_mb(),
            "versions": versions(),
            "machine": machine(),
            "finished": now(),
        }


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")[-120:]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:10]
