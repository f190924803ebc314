"""A whole training: a data set and settings in, a trained method out. Nothing that existed before is changed."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from fewclip.clip.load import fingerprint
from fewclip.clip.model import CLIP
from fewclip.data.batches import DatasetExamples, TrainingBatches
from fewclip.data.dataset import Dataset
from fewclip.methods import find
from fewclip.methods.base import Method
from fewclip.methods.classes import ClassTexts
from fewclip.training.checkpoint import Checkpoint
from fewclip.training.loop import train
from fewclip.training.processes import Processes
from fewclip.training.progress import EpochLog, ProgressBar
from fewclip.training.settings import TrainSettings


@dataclass(frozen=True)
class Trained:
    """A trained method and how it was trained."""

    method: Method
    settings: TrainSettings
    """Those that were trained with: `epochs` is set."""
    seconds: float
    history: list[EpochLog]
    """One entry per epoch, over all stages."""


def fit(
    name: str,
    clip: CLIP,
    dataset: Dataset,
    template: str,
    settings: TrainSettings,
    method_settings: Any,
    processes: Processes,
    *,
    shots: int | None,
    val: Dataset | None = None,
    checkpoint: Path | None = None,
    overwrite: bool = False,
    verbose: bool = False,
) -> Trained:
    """Train a method on all images of a data set.

    Args:
        name: the method's.
        clip: a frozen CLIP on the device of `processes`.
        shots: images per class, which `TrainSettings.steps_per_shot` counts by; None for as many as the largest class has.
        val: images that the method chooses settings by.
        checkpoint: a file where the state of the run is kept, and from which it resumes.
        overwrite: replace a checkpoint of another run, which is refused otherwise.

    Raises:
        DataError: an unreadable image.
        PromptError: class names that make no prompts.
        SettingsError: settings that don't fit this backbone or these processes.
        TrainingError: a loss that is not finite.
        OutputError: the checkpoint is of another run or can't be written.
    """
    # The caller's random numbers are left as they are: a fit depends on its seed and on nothing that ran before.
    with torch.random.fork_rng(devices=[processes.device] if processes.device.type == "cuda" else []):
        torch.manual_seed(settings.seed)
        method = find(name)(clip, method_settings, len(dataset.classes)).to(processes.device)
        # What needs no gradient comes first: text features of frozen CLIP, caches of image features, closed forms.
        started = time.monotonic()
        method.prepare(ClassTexts(dataset.classes, template, clip.tokenizer, clip.config.context_length))
        method.memorise(_examples(dataset, clip, settings), None if val is None else _examples(val, clip, settings))
        seconds = time.monotonic() - started
        if not method.parameter_count():
            return Trained(method, settings, seconds, [])
        batches = TrainingBatches(
            dataset,
            clip.preprocess,
            batch_size=settings.batch_size,
            seed=settings.seed,
            crop_min=settings.crop_min,
            cache_bytes=settings.cache_mb << 20,
            share=(processes.rank, processes.count),
            keep_last=method.keep_last,
        )
        # How many epochs `steps_per_shot` makes is known only now that the number of batches is.
        settings = settings.with_epochs(shots or max(Counter(dataset.labels).values()), len(batches))
        state = None
        if checkpoint is not None:
            run = _identity(dataset, clip, name, template, settings, method_settings)
            state = Checkpoint(checkpoint, run, overwrite)
        total = settings.epochs * method.stages * batches.images
        shown = verbose and processes.main
        with ProgressBar(name, settings.epochs, total, shown=shown, stages=method.stages) as bar:
            done = train(method, batches, settings, processes, checkpoint=state, report=bar.report)
    return Trained(method, settings, seconds + done.seconds, done.history)


def _examples(dataset: Dataset, clip: CLIP, settings: TrainSettings) -> DatasetExamples:
    return DatasetExamples(dataset, clip.preprocess, seed=settings.seed, crop_min=settings.crop_min)


def _identity(
    dataset: Dataset, clip: CLIP, method: str, template: str, settings: TrainSettings, method_settings: Any
) -> dict[str, Any]:
    """What must be equal for a checkpoint to be of this run; how fast or how often it saves does not count."""
    training = asdict(settings)
    for free in ("cache_mb", "checkpoint_seconds"):
        del training[free]
    return {
        "method": method,
        "settings": asdict(method_settings),
        "training settings": training,
        "backbone": fingerprint(clip),
        "template": template,
        "classes": list(dataset.classes),
        "images": list(dataset.keys) or len(dataset),
        "labels": list(dataset.labels),
    }
