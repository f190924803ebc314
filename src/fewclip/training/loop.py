"""The one training loop.

An optimiser, a learning rate that follows a cosine, mixed precision on a GPU, one process or several. Nothing random in
it depends on what ran before: order, augmentation and the methods' own draws follow from (seed, epoch, step), so a
run that was killed resumes from its checkpoint and reaches the same end, and several processes reach what one would.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fewclip.data.batches import Batch, TrainingBatches
from fewclip.errors import SettingsError, TrainingError
from fewclip.methods.base import Gradients, Loss, Method
from fewclip.seeds import derive
from fewclip.training.checkpoint import Checkpoint, Progress
from fewclip.training.processes import Processes
from fewclip.training.settings import TrainSettings, autocast_dtype, learning_rate, make_optimizer

Report = Callable[[int, int, float], None]
"""Called with (epoch, images seen in this step, loss) after each step whose loss is known."""


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
        self.whole, self.counted = batch.whole, batch.counted

    def gradients(self, loss: Loss, *names: str) -> list[tuple[Tensor, Gradients]]:
        """In parts, each weighted by its share of the whole batch, added up over parts and processes."""
        trainer, device = self.trainer, self.images.device
        values = [torch.zeros((), device=device) for _ in names]
        sums: list[Gradients] = [[None] * len(trainer.parameters) for _ in names]
        size = math.ceil(len(self.labels) / trainer.accumulate)
        for images, labels in zip(self.images.split(size), self.labels.split(size), strict=True):
            with torch.autocast(device.type, trainer.dtype or torch.bfloat16, enabled=trainer.dtype is not None):
                out = loss(images, labels)
            for i, name in enumerate(names):
                value = out[name] * (self.counted * len(labels) / self.whole)
                part = torch.autograd.grad(
                    trainer.scaler.scale(value), trainer.parameters, retain_graph=name != names[-1], allow_unused=True
                )
                sums[i] = [b if a is None else a if b is None else a + b for a, b in zip(sums[i], part, strict=True)]
                values[i] += value.detach()
        # Methods see gradients of the loss itself, not of the scaled loss that fp16 is differentiated by.
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
    """Train a method that has been prepared; returns the finished progress with one history entry per epoch.

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
    restored = None if checkpoint is None else checkpoint.restore(method, optimizer, scaler)
    progress = restored or Progress()
    saved = started = time.monotonic()
    seconds_before, rate = progress.seconds, settings.lr
    pending: list[tuple[int, Tensor]] = []

    def settle() -> None:
        """Read the losses of past steps. On a GPU this waits for the device, so it is not done at every step."""
        losses = torch.stack([loss for _, loss in pending]).tolist() if pending else []
        for (count, _), value in zip(pending, losses, strict=True):
            if not math.isfinite(value):
                raise TrainingError(
                    f"The loss became {value} in epoch {progress.epoch} near step {progress.step} at learning rate "
                    f"{rate:g}. Lower lr (now {settings.lr:g}), or use precision fp32."
                )
            progress.loss_sum += value
            if report is not None:
                report(progress.epoch, count, value)
        pending.clear()
        progress.seconds = seconds_before + time.monotonic() - started

    method.train()
    for stage in range(1, method.stages + 1):
        # `progress` counts the epochs of all stages, so a resumed run passes over the stages that it has finished.
        before = (stage - 1) * settings.epochs
        if progress.epoch > before + settings.epochs:
            continue
        method.begin_stage(stage)
        if (progress.epoch, progress.step) == (before + 1, 0):
            optimizer.state.clear()  # a stage is a training of its own: it inherits the parameters, but no momentum
        for epoch in range(progress.epoch - before, settings.epochs + 1):
            # A run may resume after the last step of an epoch, which then takes no step of its own.
            rate = learning_rate(settings, epoch, max(0, progress.step - 1) / len(batches))
            for batch in batches.epoch(progress.epoch, progress.step):
                rate = learning_rate(settings, epoch, progress.step / len(batches))
                for group in optimizer.param_groups:
                    group["lr"] = rate
                # Dropout and the like follow from the step's number, so a resumed run draws the same.
                torch.manual_seed(derive(settings.seed, "step", progress.epoch, progress.step))
                number = (progress.epoch - 1) * len(batches) + progress.step
                loss = method.step(BatchStep(trainer, batch, number, rate))
                progress.step += 1
                pending.append((batch.whole, loss))
                if device.type == "cpu" or len(pending) == 16:
                    settle()
                if checkpoint is not None and time.monotonic() - saved >= settings.checkpoint_seconds:
                    settle()  # a checkpoint holds no loss that was not seen to be finite
                    if processes.main:
                        checkpoint.save(method, optimizer, scaler, progress)
                    saved = time.monotonic()
            settle()
            method.end_epoch(epoch, settings.epochs)
            progress.end_epoch(rate)
    method.eval()
    return progress
