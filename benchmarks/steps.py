"""A method's training step in two ways: ours, and as its published code computes it.

The published way is the method's own file on towers that compute as published (`tests/support/naive_clip.py`); for MMRL and MMRL++
it is `examples/mmrl_plain.py`, which is written from the equations. Both take the method's whole step: MetaPrompt's trial steps
and ProGrad's two gradients are in it.
"""

from __future__ import annotations

import copy
from argparse import Namespace
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import common
import torch
from mmrl_plain import PlainMMRL
from naive_clip import naive_clip
from torch import Tensor

from fewclip.clip.model import CLIP
from fewclip.clip.prompts import Prompts
from fewclip.data.batches import Batch
from fewclip.methods import METHODS, make_settings
from fewclip.methods.base import Gradients, Loss, Method, Step
from fewclip.methods.mmrl import MMRL
from fewclip.training.loop import BatchStep, Trainer
from fewclip.training.processes import Processes

SETTINGS: dict[str, dict[str, Any]] = {"tip-adapter-f": {"passes": 1}}
NOTHING_DROPPED = 1e-9
"""CLIP-LoRA's dropout where both ways are compared: its prompts go the way that dropout makes them go."""


class Untrained(Exception):
    """A method without training steps."""


class Recorded(BatchStep):
    """The loop's step, with the gradients that it was asked for."""

    found: list[Gradients]

    def gradients(self, loss: Loss, *names: str) -> list[tuple[Tensor, Gradients]]:
        out = super().gradients(loss, *names)
        self.found += [gradients for _, gradients in out]
        return out


class Work:
    """One step to time, and what it computed last."""

    def __init__(self, take: Callable[[Step], Tensor], method: Method, batch: Batch, dtype: torch.dtype | None) -> None:
        self.take, self.batch = take, batch
        self.parameters: list[Tensor] = [p for p in method.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(self.parameters, lr=0.0)  # lr 0: all keep computing the same
        scaler = torch.amp.GradScaler(batch.images.device.type, enabled=False)
        self.trainer = Trainer(self.parameters, optimizer, scaler, dtype, Processes("cpu"), accumulate=1, seed=0)

    def __call__(self) -> None:
        torch.manual_seed(0)
        step = Recorded(self.trainer, self.batch, 0, 0.0)
        step.found = []
        self.loss = float(self.take(step))
        self.found = step.found

    def gradient(self) -> Tensor:
        """All gradients of the last step, side by side."""
        return torch.cat([g.flatten() for gradients in self.found for g in gradients if g is not None])


def build(
    options: Namespace, clip: CLIP, name: str, classes: int, batch: int, **settings: Any
) -> tuple[Work, Callable[[], Work]]:
    """Our step, and how to make the published one.

    Raises:
        Untrained: the method takes no steps.
    """
    device, size = clip.device, clip.config.image_size
    dtype = torch.bfloat16 if options.precision == "bf16" else None
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, size, size, generator=generator).to(device)
    labels = torch.randint(classes, (batch,), generator=generator).to(device)
    torch.manual_seed(0)
    method = METHODS[name](clip, make_settings(name, SETTINGS.get(name, {}) | settings), classes).to(device).train()
    if not any(p.requires_grad for p in method.parameters()):
        raise Untrained
    texts = common.class_texts(clip, classes)
    prompts = texts.prompts(texts.template)
    data = Batch(images, labels, batch)

    def ready(method: Method) -> Method:
        torch.manual_seed(0)
        with common.autocast(options.precision, device):
            method.prepare(texts)
        return method

    def naive() -> Work:
        if isinstance(method, MMRL):
            reference = PlainMMRL(clip, method, prompts_at_full_length(clip, prompts))
            return Work(follow(lambda x, y: {"loss": reference.loss(x, y)}), method, data, dtype)
        twin = copy.copy(method)
        published = naive_clip(clip)
        object.__setattr__(twin, "clip", published)
        ready(twin)
        again = published_again(name, published, prompts)

        def take(step: Step) -> Tensor:
            again()
            return twin.step(step)

        return Work(take, method, data, dtype)

    ready(method)
    method.memorise(one_image_a_class(images, classes))
    return Work(method.step, method, data, dtype), naive


def follow(loss: Loss) -> Callable[[Step], Tensor]:
    """The step along the gradient of a loss."""

    def take(step: Step) -> Tensor:
        ((value, gradients),) = step.gradients(loss, "loss")
        step.update(gradients)
        return value

    return take


def published_again(name: str, clip: CLIP, prompts: Prompts) -> Callable[[], object]:
    """What the published code computes anew at every step although it is a constant: CLIP-Adapter's class features."""
    if name != "clip-adapter":
        return lambda: None
    return lambda: clip.text_features(clip.text_stem(prompts))


def prompts_at_full_length(clip: CLIP, prompts: Prompts) -> Tensor:
    missing = clip.config.context_length - prompts.tokens.shape[1]
    return torch.nn.functional.pad(prompts.tokens, (0, missing)).to(clip.device)


def one_image_a_class(images: Tensor, classes: int) -> Any:
    """Training images for methods that store features."""
    rows = images[torch.arange(classes) % len(images)]
    parts = [part + 0.01 * i for i, part in enumerate(rows.split(8))]
    labels = torch.arange(classes)
    return SimpleNamespace(labels=labels, classes=classes, plain=lambda: parts, augmented=lambda number: parts)
