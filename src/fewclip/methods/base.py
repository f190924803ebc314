"""What a method must provide.

A method is a module that holds its learnable tensors and nothing else: the frozen CLIP is kept beside it, not in it,
so `parameters()` are what trains and `state_dict()` is what an adapter file stores.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from fewclip.clip.model import CLIP

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from fewclip.methods.classes import ClassTexts

SCALE = 100.0
"""Logit scale of MMRL, Tip-Adapter and CLIP-LoRA: a constant, where CLIP's own parameter is exp(4.6052)."""

Images: TypeAlias = 'Float[Tensor, "batch 3 height width"]'
"""Normalised pixels."""
Labels: TypeAlias = 'Int[Tensor, " batch"]'
"""Each image's training label."""
Seen: TypeAlias = 'Bool[Tensor, " classes"]'
"""Of candidate classes: trained on that class."""
Logits: TypeAlias = 'Float[Tensor, "batch classes"]'
"""Softmax over the classes makes them probabilities."""
Loss = Callable[[Tensor, Tensor], "dict[str, Tensor]"]
"""Of images and labels: the `loss`, with the outputs it was made from."""
Gradients = list["Tensor | None"]
"""One per trained parameter."""


class Step(Protocol):
    """A training batch and what a method may do with it; the loop's is `fewclip.training.loop.BatchStep`."""

    number: int
    """How many steps of the run came before."""
    seed: int
    """The run's seed; `fewclip.seeds.derive` makes a generator's seed from it and the step's number."""
    lr: float
    """Learning rate of this step."""
    images: Tensor
    """Normalised pixels (batch, 3, height, width) of this process's share of the batch."""
    labels: Tensor
    """Their labels (batch,)."""

    def gradients(self, loss: Loss, *names: str) -> list[tuple[Tensor, Gradients]]:
        """Of each named loss among what `loss` returns: its value over the whole batch, and its gradient for each
        parameter (None where it doesn't depend on one)."""

    def update(self, gradients: Gradients) -> None:
        """One step of the optimiser with these gradients."""


class Examples(Protocol):
    """The training images, for methods that learn from their features: `fewclip.data.batches`."""

    labels: Int[Tensor, " images"]
    """The label of each image."""

    def plain(self) -> Iterable[Tensor]:
        """All images as they are predicted, in order: batches of normalised pixels."""

    def augmented(self, number: int) -> Iterable[Tensor]:
        """All images in order, cropped and mirrored for the `number`-th time."""


class Method(nn.Module, ABC):
    """One way to adapt a frozen CLIP. Subclasses live in one file each and are listed in `fewclip.methods.METHODS`."""

    name: ClassVar[str]
    """How it is asked for: `--method NAME`."""
    title: ClassVar[str]
    """Its name in tables."""
    paper: ClassVar[str]
    """Authors, venue and year."""
    trained: ClassVar[str]
    """What is trained, in a few words, for the table of methods."""
    parameters_b16: ClassVar[str] = ""
    """How many parameters that is on ViT-B/16 with default settings; tests/methods/test_parameters.py counts them."""
    new_classes: ClassVar[str]
    """How it scores classes that it was not trained on, in a few words; empty if it can't."""
    Settings: ClassVar[type]
    """Its dataclass of settings."""
    train_settings: ClassVar[dict[str, Any]] = {}
    """Fields of `TrainSettings` whose published values differ from the defaults there."""
    whole_batches: ClassVar[bool] = False
    """The loss compares the images of a batch, so that it can't be split into parts or over processes."""
    keep_last: ClassVar[bool] = False
    """It trains on the short batch at the end of an epoch too, which other methods drop."""
    chooses: ClassVar[str] = ""
    """What it chooses on validation images, in a few words; empty if it does not use them."""
    published_val: ClassVar[Literal["", "few", "all"]] = ""
    """Which validation images its published runs use: at most 4 per class, or the whole val split."""

    clip: CLIP
    """The frozen backbone."""
    settings: Any
    """A `Settings`."""
    class_count: int
    """How many classes it is trained on."""

    def __init__(self, clip: CLIP, settings: Any = None, classes: int = 0) -> None:
        """`classes`: how many classes it is trained on, for methods that learn something for each of them."""
        super().__init__()
        object.__setattr__(self, "clip", clip)  # beside the module, not in it
        self.settings = self.Settings() if settings is None else settings
        self.class_count = classes
        self._chosen: dict[str, float] = {}

    # Before training

    def prepare(self, texts: ClassTexts) -> None:
        """Compute once, before the first step, what training on these classes needs of the frozen text tower."""

    def memorise(self, examples: Examples, val: Examples | None = None) -> None:
        """Learn whatever needs no gradient: called once, between `prepare` and the first step."""

    @property
    def chosen(self) -> dict[str, float]:
        """The settings that were chosen on validation images, by name; empty if there were none."""
        return self._chosen

    # Training

    @abstractmethod
    def loss(self, images: Images, labels: Labels) -> dict[str, Tensor]:
        """The training loss of a batch of normalised pixels as `loss`, with the named outputs that it was made from.

        `prepare` must have been called. `loss` is a mean over the batch plus terms that don't depend on it, so the
        shares of a batch can be weighted by their size and added up (unless `whole_batches`).
        """

    def step(self, step: Step) -> Tensor:
        """One training step; returns its loss. Most methods follow the gradient of `loss`."""
        ((loss, gradients),) = step.gradients(self.loss, "loss")
        step.update(gradients)
        return loss

    @property
    def stages(self) -> int:
        """How many trainings there are one after the other, each with all epochs, the whole schedule and a fresh optimiser."""
        return 1

    def begin_stage(self, stage: int) -> None:
        """Called before the first step of each stage, counted from 1, and when a run resumes in one."""

    def end_epoch(self, epoch: int, epochs: int) -> None:
        """Called after the last step of each epoch of a stage, counted from 1."""

    def training_state(self) -> dict[str, Tensor]:
        """Tensors that training needs and the adapter doesn't; a checkpoint keeps them and writes them back in place."""
        return {}

    # Scoring

    @abstractmethod
    def encode_classes(self, texts: ClassTexts) -> Any:
        """All that can be computed of candidate classes before an image is seen; passed to `scores`."""

    @abstractmethod
    def scores(self, images: Images, classes: Any, seen: Seen) -> Logits:
        """Logits over candidate classes; softmax makes them probabilities. `seen`: trained on that class."""

    # What is the same for all

    @property
    def scale(self) -> Tensor:
        """CLIP's own logit scale, exp of its parameter."""
        return self.clip.logit_scale.exp()

    @classmethod
    def answers_new_with(cls, settings: Any) -> bool:
        """Whether it can score, under these settings, classes that it was not trained on."""
        return bool(cls.new_classes)

    def parameter_count(self) -> int:
        """How many parameters are trained."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)


def unit(x: Float[Tensor, "*n dim"]) -> Float[Tensor, "*n dim"]:
    """L2-normalised features."""
    return x / x.norm(dim=-1, keepdim=True)


def cosine_gap(a: Float[Tensor, "n dim"], b: Float[Tensor, "n dim"]) -> Tensor:
    """1 - the mean cosine of unit features, row by row."""
    return 1 - (a * b).sum(-1).mean()


def normal(*shape: int, std: float = 0.02) -> nn.Parameter:
    """A parameter of that shape from N(0, std²)."""
    return nn.Parameter(std * torch.randn(shape))
