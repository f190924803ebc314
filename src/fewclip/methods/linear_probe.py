"""Linear probe: logistic regression on frozen image features, without any text.

Radford et al., ICML 2021, appendix A.3, in the few-shot form of CoOp (Zhou et al., IJCV 2022): minimise
C·Σ_n CE(W f_n + b, y_n) + |W|²/2 over features that are not normalised, by scikit-learn's L-BFGS. C is chosen on
validation images, the `val` of `fit`: seven powers of ten, then eight rounds that narrow a factor of ten to each side.
Without validation images C is as set.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fewclip.clip.model import CLIP
from fewclip.errors import SettingsError
from fewclip.methods import frozen
from fewclip.methods.base import Examples, Images, Labels, Logits, Method, Seen
from fewclip.methods.classes import ClassTexts
from fewclip.methods.settings import Count, Positive, Settings, Whole

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True, kw_only=True)
class LinearProbeSettings(Settings):
    c: Positive = 1.0
    """C: inverse strength of the L2 penalty on W, unless validation images choose it."""
    rounds: Whole = 8
    """Rounds of the search for C after the grid."""
    max_iter: Count = 1000
    """Maximum number of iterations per fit."""
    tolerance: Positive = 1e-4
    """Tolerance at which the solver stops; the published choice of C depends on it."""


class LinearProbe(Method):
    name = "linear-probe"
    title = "Linear probe"
    paper = "Radford et al., ICML 2021"
    trained = "a linear classifier of image features, in closed form"
    parameters_b16 = "513 per class"
    new_classes = ""
    Settings = LinearProbeSettings
    chooses = "C"
    published_val = "few"
    grid: tuple[float, ...] = (1e6, 1e4, 1e2, 1, 1e-2, 1e-4, 1e-6)
    """Values of C that the search begins with."""
    settings: LinearProbeSettings

    def __init__(self, clip: CLIP, settings: LinearProbeSettings | None = None, classes: int = 0) -> None:
        super().__init__(clip, settings, classes)
        self.weight = nn.Parameter(torch.zeros(classes, clip.config.embed_dim), requires_grad=False)  # W (C, d)
        self.bias = nn.Parameter(torch.zeros(classes), requires_grad=False)  # b (C,)

    @torch.no_grad()
    def memorise(self, examples: Examples, val: Examples | None = None) -> None:
        f, labels = frozen.raw_image_features(self.clip, examples.plain()), examples.labels
        model = self.regression(f, labels, self.settings.c)
        if val is not None:
            g, truth = frozen.raw_image_features(self.clip, val.plain()), val.labels
            model = self.search(f, labels, g, truth)
            self._chosen = {"c": float(model.C)}
        weight, bias = coefficients(model)
        self.weight.copy_(weight)
        self.bias.copy_(bias)

    def regression(self, f: Float[Tensor, "n dim"], labels: Int[Tensor, " n"], c: float) -> Any:
        """scikit-learn's fitted model for one C.

        Raises:
            SettingsError: scikit-learn is not installed.
        """
        try:
            from sklearn.linear_model import LogisticRegression
        except ImportError as error:
            raise SettingsError(
                "linear-probe needs scikit-learn, which is not installed: pip install 'fewclip[probe]'."
            ) from error
        s = self.settings
        model = LogisticRegression(C=c, solver="lbfgs", max_iter=s.max_iter, tol=s.tolerance)
        return model.fit(f.cpu().numpy(), labels.cpu().numpy())

    def search(
        self,
        f: Float[Tensor, "n dim"],
        labels: Int[Tensor, " n"],
        val: Float[Tensor, "m dim"],
        truth: Int[Tensor, " m"],
        seen: Callable[[float, Any, float], None] | None = None,
    ) -> Any:
        """The model that the published search ends with. `seen` is called after every fit: C, model, validation accuracy."""

        def accuracy(c: float) -> tuple[float, Any]:
            model = self.regression(f, labels, c)
            share = float((torch.from_numpy(model.predict(val.cpu().numpy())) == truth.cpu()).double().mean())
            if seen is not None:
                seen(c, model, share)
            return share, model

        shares = [accuracy(c)[0] for c in self.grid]
        best = self.grid[shares.index(max(shares))]  # of equals the largest
        left, right = best / 10, best * 10
        model = None if self.settings.rounds else accuracy(best)[1]
        for _ in range(self.settings.rounds):
            (at_left, left_model), (at_right, right_model) = accuracy(left), accuracy(right)
            middle = 10 ** ((math.log10(left) + math.log10(right)) / 2)
            if at_left < at_right:
                model, left = right_model, middle
            else:  # of equals the smaller
                model, right = left_model, middle
        return model

    def loss(self, images: Images, labels: Labels) -> dict[str, Tensor]:
        """Never called: it is fitted in closed form."""
        raise RuntimeError("a linear probe is fitted in closed form and has no training steps")

    def encode_classes(self, texts: ClassTexts) -> Int[Tensor, " classes"]:
        """The training label of each candidate."""
        return texts.labels.to(self.clip.device)

    def scores(self, images: Images, classes: Int[Tensor, " classes"], seen: Seen) -> Logits:
        f = self.clip.visual.features(self.clip.visual.stem(images))
        return f @ self.weight[classes].T + self.bias[classes]


def coefficients(model: Any) -> tuple[Float[Tensor, "classes dim"], Float[Tensor, " classes"]]:
    """W and b of a fitted model; of two classes, scikit-learn has one row for their difference."""
    weight, bias = torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)
    if len(weight) == 1:
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    return weight, bias
