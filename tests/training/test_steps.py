"""What each training step does: its optimiser, learning rate, batch and the weights of its parts."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from pictures import picture
from PIL import Image
from small import random_tokens, small_clip
from texts import TokenTexts
from torch import Tensor, nn

from fewclip.clip.preprocess import Preprocess
from fewclip.data.batches import Batch, DatasetExamples, TrainingBatches
from fewclip.data.read import from_pairs
from fewclip.methods import METHODS
from fewclip.methods.base import Gradients, Method, Step
from fewclip.methods.clip_lora import CLIPLoRA
from fewclip.methods.plot import PLOT, PLOTSettings
from fewclip.methods.tip_adapter import TipAdapterF, TipAdapterSettings
from fewclip.training.checkpoint import Checkpoint
from fewclip.training.loop import BatchStep, Trainer, train
from fewclip.training.processes import Processes
from fewclip.training.progress import duration
from fewclip.training.settings import TrainSettings, make_optimizer

Pairs = list[tuple[Image.Image, str]]
COLOURS = [(30 * i, 255 - 20 * i, 7 * i) for i in range(8)]


def batches(pairs: Pairs, size: int, **more: Any) -> TrainingBatches:
    return TrainingBatches(from_pairs(pairs), Preprocess(16), batch_size=size, seed=1, **more)


class Point(nn.Module):
    """The least that the loop trains: three numbers, whose gradient is the mean of the labels."""

    name, whole_batches, stages = "point", False, 1

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
        self.rates: list[float] = []
        self.wholes: list[int] = []

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.x.sum() * labels.float()).mean()}

    def step(self, step: Any) -> Tensor:
        self.rates.append(step.lr)
        self.wholes.append(step.whole)
        return Method.step(self, step)  # type: ignore[arg-type]

    def begin_stage(self, stage: int) -> None: ...

    def end_epoch(self, epoch: int, epochs: int) -> None: ...


# The optimiser


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_optimisers_take_the_steps_that_their_papers_give(name: Any) -> None:
    """Two steps by hand with a strong decay and a large eps, so that a missing or exchanged one shows."""
    lr, decay, eps, momentum = 0.1, 0.5, 0.3, 0.7
    settings = TrainSettings(optimizer=name, lr=lr, weight_decay=decay, eps=eps, momentum=momentum)
    p = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    optimizer = make_optimizer(settings, [p])
    x, gradients = p.detach().clone(), torch.tensor([[0.2, -0.1, 0.4], [-0.3, 0.2, 0.1]], dtype=torch.float64)
    m, v = torch.zeros_like(x), torch.zeros_like(x)
    for t, g in enumerate(gradients, 1):
        p.grad = g.clone()
        optimizer.step()
        if name == "adamw":
            x = x - lr * decay * x
        else:
            g = g + decay * x
        if name == "sgd":
            m = g if t == 1 else momentum * m + g
            x = x - lr * m
        else:
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            x = x - lr * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + eps)
        torch.testing.assert_close(p.detach(), x)


def test_defaults_of_training_are_those_of_mmrl() -> None:
    """docs/equations.md §6."""
    s = TrainSettings()
    assert (s.optimizer, s.lr, s.weight_decay, s.eps) == ("adamw", 1e-3, 5e-4, 1e-8)
    assert (s.schedule, s.min_lr, s.warmup_epochs, s.warmup_lr) == ("epoch", 0.0, 1, 1e-5)
    assert (s.epochs, s.batch_size, s.crop_min, s.accumulate) == (10, 4, 0.5, 1)


# The learning rate


@pytest.mark.parametrize("schedule", ["epoch", "step"])
def test_the_rate_changes_as_often_as_the_schedule_says(pairs: Pairs, schedule: Any) -> None:
    method = Point()
    settings = TrainSettings(epochs=3, warmup_epochs=0, lr=0.1, schedule=schedule)
    train(method, batches(pairs, 4), settings)  # type: ignore[arg-type]
    epochs = [method.rates[i : i + 3] for i in (0, 3, 6)]
    assert len(method.rates) == 9
    assert [len(set(rates)) for rates in epochs] == ([1, 1, 1] if schedule == "epoch" else [3, 3, 3])
    assert method.rates == sorted(method.rates, reverse=True)


def test_tip_adapter_f_has_a_cosine_over_all_steps_and_no_warm_up(pairs: Pairs) -> None:
    """lr·(1 + cos(π t/T))/2 at step t of T, down to 0, and the short batch at the end of each epoch."""
    method = TipAdapterF(small_clip(), TipAdapterSettings(passes=1), 3)
    method.prepare(TokenTexts(random_tokens(3, 2, 0)))
    method.memorise(DatasetExamples(from_pairs(pairs), Preprocess(16), seed=1))
    rates, sizes, take = list[float](), list[int](), method.step

    def recorded(step: Step) -> Tensor:
        rates.append(step.lr)
        sizes.append(len(step.labels))
        return take(step)

    method.step = recorded  # type: ignore[method-assign, assignment]
    settings = TrainSettings(**(TipAdapterF.train_settings | {"epochs": 3, "batch_size": 5}))
    train(method, batches(pairs, 5, keep_last=method.keep_last), settings)
    assert sizes == [5, 5, 2] * 3
    cosine = [1e-3 * (1 + float(torch.tensor(torch.pi * t / 9).cos())) / 2 for t in range(9)]
    assert rates == pytest.approx(cosine, rel=1e-5)
    assert (settings.optimizer, settings.eps, settings.weight_decay) == ("adamw", 1e-4, 0.01)


# The batch


def test_only_tip_adapter_f_and_clip_lora_train_on_a_short_last_batch() -> None:
    assert {name for name, method in METHODS.items() if method.keep_last} == {"tip-adapter-f", "clip-lora"}
    assert CLIPLoRA.keep_last


def test_a_short_last_batch_weighs_what_it_holds(pairs: Pairs) -> None:
    """Its gradient is the mean over its own images; the images of an epoch are all seen once."""
    loader = batches(pairs, 5, keep_last=True)
    found = list(loader.epoch(1))
    assert (len(loader), loader.images, [b.whole for b in found]) == (3, 12, [5, 5, 2])
    assert (len(batches(pairs, 5)), batches(pairs, 5).images) == (2, 10)
    assert (len(batches(pairs, 6, keep_last=True)), len(batches(pairs, 99, keep_last=True))) == (2, 1)
    labels = torch.cat([b.labels for b in found])
    assert sorted(labels.tolist()) == sorted(loader.dataset.labels)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_processes_share_a_batch_that_is_smaller_than_they_are_many(pairs: Pairs, count: int) -> None:
    """12 images in batches of 11: the last is a single image, which only one of the processes counts."""
    total = torch.zeros(3)
    for rank in range(count):
        *_, last = batches(pairs, 11, keep_last=True, share=(rank, count)).epoch(1)
        assert (last.whole, len(last.labels), last.counted) == (1, 1, rank == 0)
        ((_, (gradient,)),) = steps(last)
        assert gradient is not None
        total += gradient
    assert torch.equal(total, torch.full((3,), float(last.labels[0])))


def steps(batch: Batch, accumulate: int = 1) -> list[tuple[Tensor, Gradients]]:
    """Loss and gradients of one step of a `Point`."""
    point = Point()
    parameters: list[Tensor] = list(point.parameters())
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    optimizer = make_optimizer(TrainSettings(), parameters)
    trainer = Trainer(parameters, optimizer, scaler, None, Processes("cpu"), accumulate, seed=1)
    return BatchStep(trainer, batch, 0, 0.1).gradients(point.loss, "loss")


@pytest.mark.parametrize("accumulate", [1, 2, 3, 4, 9])
def test_parts_of_uneven_size_add_up_to_the_batch(accumulate: int) -> None:
    """Seven images in parts of 4 and 3, of 3, 3 and 1, …: the mean over all images, whatever the parts."""
    labels = torch.tensor([0, 1, 2, 3, 4, 5, 20])
    ((loss, (gradient,)),) = steps(Batch(torch.zeros(7, 3, 2, 2), labels, 7), accumulate)
    assert gradient is not None
    torch.testing.assert_close(gradient, torch.full((3,), 5.0))
    torch.testing.assert_close(loss, torch.tensor(-0.5 * 5.0))


# What changes from epoch to epoch


def test_every_epoch_has_its_own_order() -> None:
    """Pictures of one colour each, so that crops don't matter."""
    pairs = [(Image.new("RGB", (16, 16), colour), "ab"[i % 2]) for i, colour in enumerate(COLOURS)]
    loader = batches(pairs, 8)
    orders = [[round(float(x), 4) for x in next(loader.epoch(epoch)).images[:, 0, 0, 0]] for epoch in (1, 2, 3)]
    assert len({tuple(order) for order in orders}) == 3
    assert len({tuple(sorted(order)) for order in orders}) == 1


def test_every_epoch_has_its_own_crops() -> None:
    """A single picture, so that the order doesn't matter."""
    pairs = [(picture((200, 30, 90), 1, (40, 40)), "a")]
    loader = batches(pairs, 1)
    crops = [next(loader.epoch(epoch)).images for epoch in (1, 2, 3)]
    assert not any(torch.equal(a, b) for a, b in pairwise(crops))


# Stages


def two_stages() -> PLOT:
    torch.manual_seed(0)
    method = PLOT(small_clip(), PLOTSettings(words=("", ""), views=2, stage="two-stage"))
    method.prepare(TokenTexts(random_tokens(3, 4, 0)))
    return method


@pytest.mark.parametrize("stop", [1, 3, 4, 6, 7, 11])
def test_a_run_of_two_stages_resumes_in_either(pairs: Pairs, tmp_path: Any, stop: int) -> None:
    """Two stages of two epochs of three steps: each begins at the height of the cosine, with an optimiser that is fresh."""
    settings = TrainSettings(epochs=2, warmup_epochs=0, lr=0.01, optimizer="sgd", checkpoint_seconds=0)
    whole = two_stages()
    full = train(whole, batches(pairs, 4), settings)
    assert [round(entry["lr"], 6) for entry in full.history] == [0.01, 0.005, 0.01, 0.005]
    assert [entry["epoch"] for entry in full.history] == [1, 2, 3, 4]

    class Killed(Exception): ...

    left = stop

    def kill(epoch: int, images: int, loss: float) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed

    checkpoint = Checkpoint(tmp_path / "c.safetensors", {"run": 1})
    with pytest.raises(Killed):
        train(two_stages(), batches(pairs, 4), settings, checkpoint=checkpoint, report=kill)
    resumed = two_stages()
    done = train(resumed, batches(pairs, 4), settings, checkpoint=checkpoint)
    assert done.history == full.history
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_first_stage_trains_no_context_and_the_second_starts_without_momentum(pairs: Pairs) -> None:
    method, momenta, take = two_stages(), list[float](), PLOT.step

    def recorded(step: Any) -> Tensor:
        buffers = [state.get("momentum_buffer") for state in step.trainer.optimizer.state.values()]
        momenta.append(sum(float(buffer.abs().sum()) for buffer in buffers if buffer is not None))
        return take(method, step)

    context = method.context.detach().clone()
    method.step = recorded  # type: ignore[method-assign, assignment]

    def unchanged(epoch: int, images: int, loss: float) -> None:
        assert torch.equal(method.context, context) == (epoch <= 2)

    train(
        method, batches(pairs, 4), TrainSettings(epochs=2, lr=0.01, optimizer="sgd", weight_decay=0.0), report=unchanged
    )
    assert [i for i, m in enumerate(momenta) if m == 0] == [0, 6]


def test_how_long_a_run_is_in_words() -> None:
    assert [duration(50, 1), duration(1, 1), duration(50, 2)] == ["50 epochs", "1 epoch", "2 stages × 50 epochs"]
