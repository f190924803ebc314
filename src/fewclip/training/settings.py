"""How to train: settings, the learning rate, the optimiser, the arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from fewclip.errors import SettingsError
from fewclip.methods import find


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How to train; defaults are MMRL's for base-to-novel (shared/SPEC.md §6). Other methods bring theirs
    (`Method.train_settings`), which stand where the user says nothing."""

    epochs: int = 10
    """Times that every image is seen; 0: as often as `steps_per_shot` asks for."""
    steps_per_shot: int = 0
    """Steps for each image of a class, rounded up to whole epochs, where `epochs` is 0."""
    batch_size: int = 4
    """Images a step, over all processes."""
    lr: float = 1e-3
    """Learning rate at the height of its cosine."""
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """What takes the steps; adam and sgd add weight decay to the gradient."""
    momentum: float = 0.9
    """Of sgd."""
    eps: float = 1e-8
    """Of adamw and adam: what is added to their denominators."""
    weight_decay: float = 5e-4
    """How strongly trained tensors are drawn to zero."""
    schedule: Literal["epoch", "step"] = "epoch"
    """How often the learning rate follows its cosine."""
    min_lr: float = 0.0
    """Learning rate at the foot of its cosine."""
    warmup_epochs: int = 1
    """Epochs at the warm-up rate, before the cosine begins; a single epoch has none."""
    warmup_lr: float = 1e-5
    """Learning rate of those epochs."""
    crop_min: float = 0.5
    """Smallest share of an image that a training crop shows."""
    accumulate: int = 1
    """Parts that a batch is split into to save memory; the step is the same."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the towers; auto is fp32 on a CPU, and bf16 or fp16 on a GPU. Trained tensors are fp32 always."""
    seed: int = 1
    """Seed of the picks, the start, the order and the augmentation."""
    cache_mb: int = 2048
    """Memory for decoded images; those that do not fit are read again every epoch."""
    checkpoint_seconds: float = 30.0
    """How often an unfinished run is saved."""

    def check(self, processes: int) -> None:
        """Refuse what can't be trained with.

        Raises:
            SettingsError: a setting out of its range, or a batch with fewer images than processes.
        """
        for name in ("epochs", "batch_size", "accumulate"):
            if getattr(self, name) < 1 and not (name == "epochs" and self.steps_per_shot > 0 and self.epochs == 0):
                raise SettingsError(f"{name} is {getattr(self, name)}, but it must be at least 1.")
        if not self.lr > 0:
            raise SettingsError(f"lr is {self.lr}, but a learning rate is above 0.")
        if not 0 < self.crop_min <= 1:
            raise SettingsError(f"crop_min is {self.crop_min}, but a share of an image is above 0 and at most 1.")
        if not 0 <= self.momentum < 1 or self.eps < 0 or self.min_lr < 0:
            raise SettingsError("momentum must be 0 or more and below 1, eps and min_lr 0 or more.")
        if self.warmup_epochs < 0 or self.weight_decay < 0:
            raise SettingsError("warmup_epochs and weight_decay must be 0 or more.")
        if self.batch_size < processes:
            raise SettingsError(
                f"batch_size is {self.batch_size}, but {processes} processes need an image each: raise it."
            )

    def with_epochs(self, shots: int, steps_an_epoch: int) -> TrainSettings:
        """The same with `epochs` said, where `steps_per_shot` says it."""
        if self.epochs or not self.steps_per_shot:
            return self
        return replace(self, epochs=max(1, math.ceil(self.steps_per_shot * shots / max(1, steps_an_epoch))))


def learning_rate(settings: TrainSettings, epoch: int, done: float = 0.0) -> float:
    """The rate of an epoch, counted from 1: constant warm-up, then a cosine that keeps the full period.

    Equal to shared/published/lr_schedules.csv: the cosine starts at its full height behind the warm-up and so does not
    reach zero in the last epoch. With the schedule "step" it goes on within the epoch, `done` of which is over.
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
