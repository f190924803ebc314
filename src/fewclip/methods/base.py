"""What a method answers.

A method is a module that holds its learnable tensors and nothing else: the frozen CLIP is kept beside it, not in it,
so `parameters()` are what trains and `state_dict()` is what an adapter file stores.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from fewclip.clip.model import CLIP
from fewclip.clip.prompts import Prompts

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

SCALE = 100.0
"""Logit scale of the published methods: a constant, where CLIP's own parameter is exp(4.6052)."""


class Method(nn.Module, ABC):
    """One way to adapt a frozen CLIP. Subclasses live in one file each and are listed in `fewclip.methods.METHODS`."""

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    trained: ClassVar[str]
    """What is trained, in a few words, for the table of methods."""
    new_classes: ClassVar[str]
    """What it says of classes that it was not trained on, in a few words; empty where it can say nothing."""
    Settings: ClassVar[type]
    """Its dataclass of settings."""
    score_settings: ClassVar[tuple[str, ...]] = ()
    """Those that change `scores` alone, so that one training serves all their values."""

    clip: CLIP
    settings: Any

    def __init__(self, clip: CLIP, settings: Any = None) -> None:
        super().__init__()
        object.__setattr__(self, "clip", clip)  # beside the module, not in it
        self.settings = self.Settings() if settings is None else settings

    def prepare(self, prompts: Prompts) -> None:
        """Compute once, before the first step, what training on these classes needs of the frozen text tower."""

    @abstractmethod
    def loss(self, images: Float[Tensor, "batch 3 height width"], labels: Int[Tensor, " batch"]) -> dict[str, Tensor]:
        """The training loss of a batch of normalised pixels as `loss`, with the named outputs that it was made from.

        `prepare` must have been called. `loss` is a mean over the batch plus terms that don't depend on it, so the
        shares of a batch can be weighted by their size and added up.
        """

    @abstractmethod
    def encode_classes(self, prompts: Prompts) -> Any:
        """All that can be computed of candidate classes before an image is seen; passed to `scores`."""

    @abstractmethod
    def scores(
        self, images: Float[Tensor, "batch 3 height width"], classes: Any, seen: Bool[Tensor, " classes"]
    ) -> Float[Tensor, "batch classes"]:
        """Logits over candidate classes; softmax makes them probabilities. `seen`: trained on that class."""

    def parameter_count(self) -> int:
        """How many numbers are trained."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return self.loss(images, labels)


def unit(x: Float[Tensor, "*n dim"]) -> Float[Tensor, "*n dim"]:
    """L2-normalised features."""
    return x / x.norm(dim=-1, keepdim=True)
