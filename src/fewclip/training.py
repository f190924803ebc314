"""The one training loop.

An optimiser, a learning rate that follows a cosine, mixed precision on a GPU, one process or several. Nothing random in
it depends on what ran before: order, augmentation and the methods' own draws follow from (seed, epoch, step), so a
run that was killed goes on from its checkpoint to the same end, and several processes reach what one would.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from fewclip.checkpointing import Checkpoint
from fewclip.data.loader import Batch, TrainingBatches
from fewclip.errors import SettingsError, TrainingError
from fewclip.methods import find
from fewclip.methods.base import Gradients, Loss, Method
from fewclip.processes import Processes
from fewclip.seeds import derive

Report = Callable[[int, int, float], None]
"""Called with (epoch, images seen in this step, loss) after each step whose loss is known."""


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


@dataclass
class Progress:
    """Where a run stands: complete up to `step` steps of `epoch`, with the loss so far and the finished epochs."""

    epoch: int = 1
    step: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Trainer:
    """What stays the same from step to step."""

    parameters: list[Tensor]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    dtype: torch.dtype | None
    processes: Processes
    accumulate: int
    seed: int


class BatchStep:
    """A training batch as a method sees it (`fewclip.methods.base.Step`)."""

    def __init__(self, trainer: Trainer, batch: Batch, number: int, lr: float) -> None:
        self.trainer, self.number, self.lr, self.seed = trainer, number, lr, trainer.seed
        device = trainer.parameters[0].device
        self.images = batch.images.to(device, non_blocking=True)
        self.labels = batch.labels.to(device, non_blocking=True)
        self.whole = batch.whole

    def gradients(self, loss: Loss, *names: str) -> list[tuple[Tensor, Gradients]]:
        """In parts, each weighted by its size, added up over parts and processes."""
        trainer, device = self.trainer, self.images.device
        values = [torch.zeros((), device=device) for _ in names]
        sums: list[Gradients] = [[None] * len(trainer.parameters) for _ in names]
        size = math.ceil(len(self.labels) / trainer.accumulate)
        for images, labels in zip(self.images.split(size), self.labels.split(size), strict=True):
            with torch.autocast(device.type, trainer.dtype or torch.bfloat16, enabled=trainer.dtype is not None):
                out = loss(images, labels)
            for i, name in enumerate(names):
                value = out[name] * (len(labels) / self.whole)
                found = torch.autograd.grad(
                    trainer.scaler.scale(value), trainer.parameters, retain_graph=name != names[-1], allow_unused=True
                )
                sums[i] = [b if a is None else a if b is None else a + b for a, b in zip(sums[i], found, strict=True)]
                values[i] += value.detach()
        scale = trainer.scaler.get_scale()
        if scale != 1:
            sums = [[None if g is None else g / scale for g in gradients] for gradients in sums]
        trainer.processes.add([*values, *(g for gradients in sums for g in gradients if g is not None)])
        return list(zip(values, sums, strict=True))

    def update(self, gradients: Gradients) -> None:
        trainer = self.trainer
        scale = trainer.scaler.get_scale()
        for parameter, gradient in zip(trainer.parameters, gradients, strict=True):
            parameter.grad = gradient if gradient is None or scale == 1 else gradient * scale
        trainer.scaler.step(trainer.optimizer)
        trainer.scaler.update()
        trainer.optimizer.zero_grad()


def train(
    method: Method,
    batches: TrainingBatches,
    settings: TrainSettings,
    processes: Processes | None = None,
    *,
    checkpoint: Checkpoint | None = None,
    report: Report | None = None,
) -> Progress:
    """Train a method that has been prepared; returns the finished progress with one history entry an epoch.

    Raises:
        TrainingError: a loss is not finite.
        SettingsError: settings that can't be trained with.
    """
    processes = processes or Processes("cpu")
    settings.check(processes.count)
    if method.whole_batches and (processes.count > 1 or settings.accumulate > 1):
        raise SettingsError(
            f"{method.name} compares the images of a batch with each other, so it trains in one process with accumulate 1."
        )
    parameters: list[Tensor] = [p for p in method.parameters() if p.requires_grad]
    device = parameters[0].device
    optimizer = make_optimizer(settings, parameters)
    dtype = autocast_dtype(settings.precision, device)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    trainer = Trainer(parameters, optimizer, scaler, dtype, processes, settings.accumulate, settings.seed)
    progress = Progress()
    if checkpoint is not None:
        progress = checkpoint.restore(method, optimizer, scaler) or progress
    method.train()
    saved = started = time.monotonic()
    before = progress.seconds
    pending: list[tuple[int, Tensor]] = []

    def settle() -> None:
        """Read the losses of past steps; on a GPU this waits for it, so it is not done at every step."""
        for (count, _), value in zip(pending, torch.stack([loss for _, loss in pending]).tolist(), strict=True):
            if not math.isfinite(value):
                raise TrainingError(
                    f"The loss became {value} in epoch {progress.epoch} near step {progress.step} at learning rate "
                    f"{rate:g}. Lower lr (now {settings.lr:g}), or use precision fp32."
                )
            progress.loss_sum += value
            if report is not None:
                report(progress.epoch, count, value)
        pending.clear()

    stage = 0
    while progress.epoch <= settings.epochs * method.stages:
        before_it, epoch = divmod(progress.epoch - 1, settings.epochs)
        epoch += 1
        if before_it + 1 != stage:
            stage = before_it + 1
            method.begin_stage(stage)
            if epoch == 1 and not progress.step:
                optimizer.state.clear()
        rate = learning_rate(settings, epoch, max(0, progress.step - 1) / len(batches))
        for batch in batches.epoch(progress.epoch, progress.step):
            rate = learning_rate(settings, epoch, progress.step / len(batches))
            for group in optimizer.param_groups:
                group["lr"] = rate
            torch.manual_seed(derive(settings.seed, "step", progress.epoch, progress.step))
            number = (progress.epoch - 1) * len(batches) + progress.step
            loss = method.step(BatchStep(trainer, batch, number, rate))
            progress.step += 1
            pending.append((batch.whole, loss))
            if device.type == "cpu" or len(pending) == 16:
                settle()
            if checkpoint is not None and time.monotonic() - saved >= settings.checkpoint_seconds:
                if pending:
                    settle()
                progress.seconds = before + time.monotonic() - started
                if processes.main:
                    checkpoint.save(method, optimizer, scaler, progress)
                saved = time.monotonic()
        if pending:
            settle()
        progress.seconds = before + time.monotonic() - started
        method.end_epoch(epoch, settings.epochs)
        mean = progress.loss_sum / max(1, progress.step)
        progress.history.append({"epoch": progress.epoch, "lr": rate, "loss": mean})
        progress.epoch, progress.step, progress.loss_sum = progress.epoch + 1, 0, 0.0
    method.eval()
    return progress


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
