"""The one training loop.

AdamW, a learning rate that changes once an epoch, mixed precision on a GPU, one process or several. Nothing random in
it depends on what ran before: order, augmentation and the methods' own draws follow from (seed, epoch, step), so a
run that was killed goes on from its checkpoint to the same end, and several processes reach what one would.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from fewclip.checkpointing import Checkpoint
from fewclip.data.loader import Batch, TrainingBatches
from fewclip.errors import SettingsError, TrainingError
from fewclip.methods.base import Method
from fewclip.processes import Processes
from fewclip.seeds import derive

Report = Callable[[int, int, float], None]
"""Called with (epoch, images seen in this step, loss) after each step whose loss is known."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How to train; defaults are the papers' for base-to-novel (shared/SPEC.md §6)."""

    epochs: int = 10
    """Times that every image is seen."""
    batch_size: int = 4
    """Images a step, over all processes."""
    lr: float = 1e-3
    """Learning rate at the height of its cosine."""
    weight_decay: float = 5e-4
    """AdamW's weight decay."""
    warmup_epochs: int = 1
    """Epochs at the warm-up rate, before the cosine begins; a single epoch has none."""
    warmup_lr: float = 1e-5
    """Learning rate of those epochs."""
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
            SettingsError
        """
        for name in ("epochs", "batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}, but it must be at least 1.")
        if not self.lr > 0:
            raise SettingsError(f"lr is {self.lr}, but a learning rate is above 0.")
        if self.warmup_epochs < 0 or self.weight_decay < 0:
            raise SettingsError("warmup_epochs and weight_decay must be 0 or more.")
        if self.batch_size < processes:
            raise SettingsError(
                f"batch_size is {self.batch_size}, but {processes} processes need an image each: raise it."
            )


def learning_rate(settings: TrainSettings, epoch: int) -> float:
    """The rate of an epoch, counted from 1: constant warm-up, then a cosine that keeps the full period.

    Equal to shared/published/lr_schedules.csv: the cosine starts at its full height behind the warm-up and so does not
    reach zero in the last epoch.
    """
    warmup = min(settings.warmup_epochs, settings.epochs - 1)
    if epoch <= warmup:
        return settings.warmup_lr
    return settings.lr / 2 * (1 + math.cos(math.pi * (epoch - 1 - warmup) / settings.epochs))


@dataclass
class Progress:
    """Where a run stands: complete up to `step` steps of `epoch`, with the loss so far and the finished epochs."""

    epoch: int = 1
    step: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


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
    parameters = [p for p in method.parameters() if p.requires_grad]
    device = parameters[0].device
    optimizer = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay)
    dtype = autocast_dtype(settings.precision, device)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
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

    while progress.epoch <= settings.epochs:
        rate = learning_rate(settings, progress.epoch)
        for group in optimizer.param_groups:
            group["lr"] = rate
        for batch in batches.epoch(progress.epoch, progress.step):
            torch.manual_seed(derive(settings.seed, "step", progress.epoch, progress.step))
            optimizer.zero_grad()
            loss = _backward(method, batch, settings.accumulate, dtype, scaler, device)
            processes.add([p.grad for p in parameters if p.grad is not None] + [loss])
            scaler.step(optimizer)
            scaler.update()
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
        mean = progress.loss_sum / max(1, progress.step)
        progress.history.append({"epoch": progress.epoch, "lr": rate, "loss": mean})
        progress.epoch, progress.step, progress.loss_sum = progress.epoch + 1, 0, 0.0
    method.eval()
    return progress


def _backward(
    method: Method,
    batch: Batch,
    parts: int,
    dtype: torch.dtype | None,
    scaler: torch.amp.GradScaler,
    device: torch.device,
) -> Tensor:
    """Gradients of this process's share of a batch, in parts, each weighted by its size; returns its loss likewise."""
    total = torch.zeros((), device=device)
    size = math.ceil(len(batch.labels) / parts)
    for images, labels in zip(batch.images.split(size), batch.labels.split(size), strict=True):
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            loss = method.loss(images, labels)["loss"] * (len(labels) / batch.whole)
        scaler.scale(loss).backward()
        total += loss.detach()
    return total


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
