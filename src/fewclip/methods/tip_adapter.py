"""Tip-Adapter: the few-shot features are stored, and similar ones vote for their labels; -F fine-tunes what is stored.

Zhang, Zhang, Fang, Gao, Li, Dai, Qiao and Li, "Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification",
ECCV 2022 (arXiv 2207.09519), eq. 3-7: logits = 100·f Wᵀ + α·exp(-β(1 - f Kᵀ)) V. The published search of α and β uses
validation images (ImageNet: test images), and -F's published figures the epoch that is best on the test images; here the
search uses the `val` of `fit`, without which α and β stay as set, and the last epoch counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewclip.clip.model import CLIP
from fewclip.clip.templates import SELECTED_TEMPLATES
from fewclip.methods import frozen
from fewclip.methods.base import SCALE, Examples, Images, Labels, Logits, unit
from fewclip.methods.classes import ClassTexts
from fewclip.methods.cosine import CosineMethod
from fewclip.methods.settings import Count, Positive, Settings, Weight

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True, kw_only=True)
class TipAdapterSettings(Settings):
    alpha: Weight = 1.17
    """α: weight of the stored images' votes, unless validation images choose it."""
    beta: Weight = 1.0
    """β: sharpness of the votes (how much more similar images count), unless validation images choose it."""
    passes: Count = 10
    """How many times each training image is augmented; its stored feature is the mean."""
    ensemble: bool = False
    """Class features from seven sentences, as published for ImageNet, or from the template only."""
    alpha_scale: Positive = 3.0
    """Largest α that is searched."""
    beta_scale: Positive = 7.0
    """Largest β that is searched."""
    alpha_steps: Count = 20
    """Number of values of α that are searched."""
    beta_steps: Count = 200
    """Number of values of β that are searched."""


class TipAdapter(CosineMethod):
    name = "tip-adapter"
    title = "Tip-Adapter"
    paper = "Zhang et al., ECCV 2022"
    trained = "nothing; the training images' features are stored"
    parameters_b16 = "0"
    new_classes = ""
    Settings = TipAdapterSettings
    chooses = "α and β"
    published_val = "all"
    templates: tuple[str, ...] = SELECTED_TEMPLATES
    """Sentences of the ensemble."""
    settings: TipAdapterSettings

    def __init__(self, clip: CLIP, settings: TipAdapterSettings | None = None, classes: int = 0) -> None:
        super().__init__(clip, settings, classes)
        self.register_buffer("keys", torch.empty(0, clip.config.embed_dim))  # K (N, d)
        self.register_buffer("labels", torch.empty(0, dtype=torch.long))  # V (N,) as class indices
        self.register_buffer("found", torch.full((2,), torch.nan, dtype=torch.float64))  # β, α of the search
        self.keys: Tensor
        self.labels: Tensor
        self.found: Tensor
        self._val: tuple[Tensor, Tensor] | None = None

    def read(self, texts: ClassTexts) -> tuple[Tensor, Tensor]:
        """W (C, d) of the template, or of the ensemble's sentences, and the training label of each class."""
        sentences = self.templates if self.settings.ensemble else (texts.template,)
        return frozen.ensemble(self.clip, map(texts.prompts, sentences)), texts.labels.to(self.clip.device)

    @torch.no_grad()
    def memorise(self, examples: Examples, val: Examples | None = None) -> None:
        """K is the unit mean of each image's augmented features."""
        device = self.clip.device
        total = sum(frozen.raw_image_features(self.clip, examples.augmented(i)) for i in range(self.settings.passes))
        assert isinstance(total, Tensor)
        self.keys.data = unit(total / self.settings.passes)
        self.labels = examples.labels.to(device)
        if val is not None:
            self._val = unit(frozen.raw_image_features(self.clip, val.plain())), val.labels.to(device)
            self._finish()

    def _finish(self) -> None:
        """Search α and β, if there are validation images."""
        if self._val is not None:
            self.found.copy_(torch.tensor(self.search(*self._val), dtype=torch.float64))

    @property
    def chosen(self) -> dict[str, float]:
        return {} if self.found.isnan().any() else dict(zip(("beta", "alpha"), self.found.tolist(), strict=True))

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Makes room for as many images as are stored there."""
        for name, tensor in (("keys", self.keys), ("labels", self.labels)):
            if name in state_dict:
                tensor.data = tensor.new_empty(state_dict[name].shape[:1] + tensor.shape[1:])
        return super().load_state_dict(state_dict, strict, assign)

    def votes(self, f: Float[Tensor, "batch dim"], places: Int[Tensor, " classes"], beta: float | Tensor) -> Logits:
        """exp(-β(1 - f Kᵀ)) V, for the training labels `places`."""
        values = (self.labels[:, None] == places).to(f)
        return torch.exp(-beta * (1 - f @ self.keys.T)) @ values

    def blend(self, f: Float[Tensor, "batch dim"], w: tuple[Tensor, Tensor], beta: Any, alpha: Any) -> Logits:
        """100·f Wᵀ and α times the votes, of unit features and what `read` returned."""
        text, places = w
        return SCALE * f @ text.T + alpha * self.votes(f, places, beta)

    def logits(self, f: Float[Tensor, "batch dim"], w: tuple[Tensor, Tensor]) -> Logits:
        """At the α and β that were chosen, or else set."""
        given = self.found.new_tensor([self.settings.beta, self.settings.alpha])
        beta, alpha = torch.where(self.found.isnan(), given, self.found).to(f).unbind()
        return self.blend(f, w, beta, alpha)

    @torch.no_grad()
    def search(self, f: Float[Tensor, "batch dim"], labels: Labels) -> tuple[float, float]:
        """The first pair (β, α) of the grid with the highest accuracy; the upper ends are never reached, as published."""
        s = self.settings
        text = self._read[0]
        plain, values = SCALE * f @ text.T, F.one_hot(self.labels, len(text)).to(f)
        affinity, best, found = f @ self.keys.T, -1, (s.beta, s.alpha)
        for i in range(s.beta_steps):
            beta = 0.1 + i * (s.beta_scale - 0.1) / s.beta_steps
            votes = torch.exp(-beta * (1 - affinity)) @ values
            for j in range(s.alpha_steps):
                alpha = 0.1 + j * (s.alpha_scale - 0.1) / s.alpha_steps
                right = int(((plain + alpha * votes).argmax(-1) == labels).sum())
                if right > best:
                    best, found = right, (beta, alpha)
        return found

    def loss(self, images: Images, labels: Labels) -> dict[str, Tensor]:
        """Cross-entropy at the α and β that were set."""
        f = self.image_features(images)
        logits = self.blend(f, self._read, self.settings.beta, self.settings.alpha)
        return {"image_features": f, "logits": logits, "loss": F.cross_entropy(logits, labels)}


class TipAdapterF(TipAdapter):
    name = "tip-adapter-f"
    title = "Tip-Adapter-F"
    trained = "the training images' stored features"
    parameters_b16 = "8,192 per class (16 shots)"
    train_settings: ClassVar[dict[str, Any]] = {
        "eps": 1e-4,
        "weight_decay": 0.01,
        "batch_size": 256,
        "epochs": 20,
        "schedule": "step",
        "warmup_epochs": 0,
    }
    keep_last = True

    def __init__(self, clip: CLIP, settings: TipAdapterSettings | None = None, classes: int = 0) -> None:
        super().__init__(clip, settings, classes)
        self.keys = nn.Parameter(self.keys)

    def end_epoch(self, epoch: int, epochs: int) -> None:
        if epoch == epochs:
            self._finish()
