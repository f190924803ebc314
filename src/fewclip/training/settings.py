"""How to train: settings, the learning rate, the optimiser, the arithmetic."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from fewclip.errors import SettingsError
from fewclip.methods import find
from fewclip.methods.settings import Count, Positive, Range, Settings, Weight, Whole, suggestion


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Settings):
    """How to train; defaults are MMRL's for base-to-novel (docs/equations.md §6). Other methods have their own
    (`Method.train_settings`), which apply where the user sets nothing."""

    epochs: Whole = 10
    """Passes over the training images; 0: as many as `steps_per_shot` asks for."""
    steps_per_shot: Whole = 0
    """Training steps per shot, rounded up to whole epochs; used if `epochs` is 0."""
    batch_size: Count = 4
    """Images per step, over all processes."""
    lr: Positive = 1e-3
    """Learning rate at the start of its cosine decay."""
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """Optimiser. adam and sgd add weight decay to the gradient; adamw keeps it separate."""
    momentum: Annotated[float, Range(0, 1, below=True)] = 0.9
    """Momentum of sgd."""
    eps: Weight = 1e-8
    """Small number that adamw and adam add to their denominators."""
    weight_decay: Weight = 5e-4
    """How strongly trained tensors are pulled towards zero."""
    schedule: Literal["epoch", "step"] = "epoch"
    """How often the learning rate changes: once per epoch or at every step."""
    min_lr: Weight = 0.0
    """Learning rate at the end of its cosine decay."""
    warmup_epochs: Whole = 1
    """Epochs at the warm-up rate, before the cosine decay; a run of a single epoch has none."""
    warmup_lr: Weight = 1e-5
    """Learning rate of the warm-up epochs."""
    crop_min: Annotated[float, Range(0, 1, above=True)] = 0.5
    """Smallest share of an image's area that a training crop may have."""
    accumulate: Count = 1
    """Parts that a batch is split into to save memory; the step is the same."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the towers; auto is fp32 on a CPU, and bf16 or fp16 on a GPU. Trained tensors are always fp32."""
    seed: Annotated[int, Range(-(2**63), 2**63 - 1)] = 1
    """Seed of the few-shot picks, initial values, order and augmentation."""
    cache_mb: Whole = 2048
    """Memory for decoded images, in MB; images that do not fit are read again in every epoch."""
    checkpoint_seconds: Weight = 30.0
    """Seconds between saves of an unfinished run."""

    def __post_init__(self) -> None:
        """
        Raises:
            SettingsError: a value of another type, not among the choices, or out of its range; neither epochs nor
                steps_per_shot.
        """
        super().__post_init__()
        if not (self.epochs or self.steps_per_shot):
            raise SettingsError("epochs is 0, but it must be at least 1, unless steps_per_shot is.")

    def check(self, processes: int) -> None:
        """Refuse a batch with fewer images than processes.

        Raises:
            SettingsError
        """
        if self.batch_size < processes:
            raise SettingsError(
                f"batch_size is {self.batch_size}, but {processes} processes need an image each: increase it."
            )

    def with_epochs(self, shots: int, steps_an_epoch: int) -> TrainSettings:
        """The same with `epochs` set, if `steps_per_shot` determines it."""
        if self.epochs or not self.steps_per_shot:
            return self
        return replace(self, epochs=max(1, math.ceil(self.steps_per_shot * shots / max(1, steps_an_epoch))))


def learning_rate(settings: TrainSettings, epoch: int, done: float = 0.0) -> float:
    """The rate of an epoch, counted from 1: constant warm-up, then a cosine that keeps the full period.

    As in the published code, the cosine starts at its full height after the warm-up and keeps its full period, so it does not
    reach zero in the last epoch. With the schedule "step" it also falls within an epoch, of which the share `done` is over.
    """
    warmup = min(settings.warmup_epochs, settings.epochs - 1)
    if epoch <= warmup:
        return settings.warmup_lr
    along = epoch - 1 - warmup + (done if settings.schedule == "step" else 0.0)
    height = settings.lr - settings.min_lr
    return settings.min_lr + height / 2 * (1 + math.cos(math.pi * along / settings.epochs))


def make_optimizer(settings: TrainSettings, parameters: list[Tensor]) -> torch.optim.Optimizer:
    """The optimiser that the settings name."""
    lr, decay = settings.lr, settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=lr, momentum=settings.momentum, weight_decay=decay)
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[settings.optimizer]
    return kind(parameters, lr=lr, weight_decay=decay, eps=settings.eps)


def split_settings(method: str, values: Mapping[str, Any]) -> tuple[TrainSettings, Any]:
    """The settings of training and those of a method, from one mapping of those that differ from the published ones.

    Raises:
        SettingsError: an unknown method or setting, or a value of another type, not among the choices, or out of its range.
    """
    training = [f.name for f in fields(TrainSettings)]
    known = [f.name for f in fields(find(method).Settings)]
    for name in values:
        if name not in training + known:
            raise SettingsError(
                f"{method} has no setting {name!r}{suggestion(name, training + known)}: it has "
                f"{', '.join(known) or 'none'}. Settings of training: {', '.join(sorted(training))}."
            )
    given = {name: value for name, value in values.items() if name in training}
    own = {name: value for name, value in values.items() if name in known}
    return TrainSettings(**published_training(method) | given), find(method).Settings(**own)


def published_training(method: str) -> dict[str, Any]:
    """The fields of `TrainSettings` in which a method's published settings differ from the defaults.

    Raises:
        SettingsError: there is no such method.
    """
    return dict(find(method).train_settings)


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The dtype to autocast to, or None for plain float32.

    Raises:
        SettingsError: fp16 on a CPU.
    """
    if precision == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if precision == "fp16" and device.type == "cpu":
        raise SettingsError(
            "precision is fp16, but the device is a CPU, which trains in fp32 or bf16: use one of these."
        )
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
