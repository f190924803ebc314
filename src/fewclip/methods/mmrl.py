"""MMRL: tokens from one shared space enter the upper layers of both towers; class and representation features decouple.

Guo and Gu, "MMRL: Multi-Modal Representation Learning for Vision-Language Models", CVPR 2025 (arXiv 2503.08497).
Equations: docs/equations.md; a plain version to read first: examples/mmrl_plain.py. Where paper and published code differ,
the code's reading is the default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewclip.clip.model import CLIP
from fewclip.clip.tokens import Insertion, Stem, TextTokens
from fewclip.errors import SettingsError
from fewclip.methods.base import SCALE, Images, Labels, Logits, Method, Seen, cosine_gap, unit
from fewclip.methods.classes import ClassTexts
from fewclip.methods.settings import Count, Settings, Share, Weight

if TYPE_CHECKING:
    from jaxtyping import Float

    from fewclip.clip.groups import TextGroups


@dataclass(frozen=True, kw_only=True)
class MMRLSettings(Settings):
    """Settings of MMRL; defaults are the paper's, λ and J those for your own data."""

    rep_tokens: Count = 5
    """K: representation tokens per layer."""
    first_layer: Count | None = None
    """J: first layer that receives them, counted from 1. By default the middle of each tower (6 of 12)."""
    rep_dim: Count = 512
    """d_r: width of the shared representation space."""
    alpha: Share = 0.7
    """α: weight of the class feature against the representation feature, in the loss and on known classes."""
    reg_weight: Weight = 1.0
    """λ: how strongly class and text features are held to those of frozen CLIP."""
    regulariser: Literal["cosine", "l1", "mse"] = "cosine"
    """Distance that λ weights: 1 - cosine, or the mean absolute or squared difference of unit features (Table 9)."""
    fusion: Literal["logits", "probabilities"] = "logits"
    """What is mixed for known classes: the logits, as in the published code, or the probabilities, as in the paper."""
    image_tokens: bool = True
    """Tokens in the image tower; without them (ablation "w/o V") there is no representation feature."""
    text_tokens: bool = True
    """Tokens in the text tower; without them it is the ablation "w/o L"."""
    space: Literal["shared", "independent", "text-to-image"] = "shared"
    """Where tokens come from: the shared space; separate tokens for each tower and layer ("w/o RS"); or text tokens mapped to the
    image side (MMRL†)."""
    seen_scores: Literal["both", "class"] = "both"
    """Features that score known classes ("w/o DS1": class)."""
    new_scores: Literal["class", "both"] = "class"
    """Features that score new classes ("w/o DS2": both)."""
    mixed_scores: Literal["balanced", "raw"] = "balanced"
    """How known and new classes compete. balanced: the class feature gives the probability of all known classes together, and both
    features divide it among them. raw: the two kinds of logits side by side. A single kind is scored the same either way."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.image_tokens or self.text_tokens):
            raise SettingsError(
                "image_tokens and text_tokens are both off, which leaves nothing to train: switch one on."
            )
        if self.space == "text-to-image" and not (self.image_tokens and self.text_tokens):
            raise SettingsError("space 'text-to-image' needs both image_tokens and text_tokens.")


class Aligner(nn.Module):
    """An independent linear map from the representation space per layer, all from the same start: (n, K, width)."""

    def __init__(self, layers: int, rep_dim: int, width: int) -> None:
        super().__init__()
        start = nn.Linear(rep_dim, width)
        self.weight = nn.Parameter(start.weight.detach().repeat(layers, 1, 1))  # (n, width, d_r)
        self.bias = nn.Parameter(start.bias.detach().repeat(layers, 1))  # (n, width)

    def forward(self, space: Float[Tensor, "... k d_r"]) -> Float[Tensor, "n k width"]:
        return space @ self.weight.transpose(1, 2) + self.bias[:, None]


class RepresentationTokens(nn.Module):
    """The learnable tokens of both towers, (n, K, d_v) and (n, K, d_t), one row of K per layer from J on."""

    def __init__(
        self,
        settings: MMRLSettings,
        image: tuple[int, int],
        text: tuple[int, int],
        aligner: Callable[[int, int, int], nn.Module],
    ) -> None:
        """`image`, `text`: number of layers with tokens, and width, of each tower."""
        super().__init__()
        k, kind = settings.rep_tokens, settings.space
        self.kind = kind
        self.text = self.image = self.to_image = self.to_text = None
        if kind == "shared":
            self.space = nn.Parameter(0.02 * torch.randn(k, settings.rep_dim))
            self.to_image = aligner(image[0], settings.rep_dim, image[1]) if settings.image_tokens else None
            self.to_text = aligner(text[0], settings.rep_dim, text[1]) if settings.text_tokens else None
            return
        if settings.text_tokens:
            self.text = nn.Parameter(0.02 * torch.randn(text[0], k, text[1]))
        if kind == "text-to-image":
            if image[0] != text[0]:
                raise SettingsError(
                    f"space 'text-to-image' maps the text tokens of each layer to the same image layer, but {image[0]} "
                    f"image layers and {text[0]} text layers see tokens: use space 'shared' with this backbone."
                )
            self.to_image = aligner(image[0], text[1], image[1])
        elif settings.image_tokens:
            self.image = nn.Parameter(0.02 * torch.randn(image[0], k, image[1]))

    def forward(self) -> tuple[Tensor | None, Tensor | None]:
        """Tokens of the image and of the text tower; None where a tower has none."""
        text = self.text if self.to_text is None else self.to_text(self.space)
        if self.to_image is None:
            return self.image, text
        return self.to_image(self.space if self.kind == "shared" else text), text


class MMRL(Method):
    name = "mmrl"
    title = "MMRL"
    paper = "Guo and Gu, CVPR 2025"
    trained = "tokens of a shared space, maps to every upper layer, one projection"
    parameters_b16 = "4,992,256"
    new_classes = "only class features, held to CLIP's"
    Settings = MMRLSettings
    aligner: Callable[[int, int, int], nn.Module] = Aligner
    mix = 1.0
    settings: MMRLSettings

    def __init__(self, clip: CLIP, settings: MMRLSettings | None = None, classes: int = 0) -> None:
        super().__init__(clip, settings, classes)
        s, config = self.settings, clip.config
        check(s, config.vision_layers, config.text_layers)
        self.image_first = s.first_layer or max(1, config.vision_layers // 2)
        self.text_first = s.first_layer or max(1, config.text_layers // 2)
        self.tokens = RepresentationTokens(
            s,
            (config.vision_layers - self.image_first + 1, config.vision_width),
            (config.text_layers - self.text_first + 1, config.text_width),
            self.aligner,
        )
        if s.image_tokens:
            self._build_projection(config.vision_width, config.embed_dim)

    def _build_projection(self, width: int, dim: int) -> None:
        self.rep_proj = nn.Parameter(width**-0.5 * torch.randn(width, dim))  # P_r

    def _project(self, rep: Float[Tensor, "batch d_v"]) -> Float[Tensor, "batch d"]:
        return rep @ self.rep_proj

    def image_features(self, stem: Stem[Tensor], tokens: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """f_c and f_r (B, d), L2-normalised; f_r is None without tokens in the image tower."""
        visual = self.clip.visual
        if tokens is None:
            return unit(visual.features(stem)), None
        edit, read = Insertion(self.image_first, tokens, self.mix), 1 + tokens.shape[1]
        parts = [Stem(stem.layer, part) for part in visual.parts(stem.tokens)]
        x = visual.ln_post(torch.cat([visual.finish(part, edit.image, read) for part in parts]))
        return unit(x[:, 0] @ visual.proj), unit(self._project(x[:, 1:].mean(dim=1)))

    def text_stem(self, texts: ClassTexts) -> TextGroups[Stem[TextTokens]]:
        """The template's prompts as they enter the first layer with tokens: constant."""
        return self.clip.text_groups(texts.prompts(texts.template), self.text_first)

    def text_features(self, stem: TextGroups[Stem[TextTokens]], tokens: Tensor | None) -> Float[Tensor, "classes d"]:
        """w (C, d), L2-normalised."""
        edit = None if tokens is None else Insertion(self.text_first, tokens, self.mix).text
        return unit(self.clip.text_features(stem, edit))

    @torch.no_grad()
    def prepare(self, texts: ClassTexts) -> None:
        self._text_stem = self.text_stem(texts)
        self._frozen_text = self.text_features(self._text_stem, None)  # w0

    def loss(self, images: Images, labels: Labels) -> dict[str, Tensor]:
        """α·CE(ℓ_c) + (1-α)·CE(ℓ_r) + λ·R(f_c, f0) + λ·R(w, w0), docs/equations.md §4."""
        s = self.settings
        image_tokens, text_tokens = self.tokens()
        stem = self.clip.visual.stem(images, self.image_first)
        with torch.no_grad():
            frozen = unit(self.clip.visual.features(stem))  # f0
        f_c, f_r = self.image_features(stem, image_tokens)
        w = self.text_features(self._text_stem, text_tokens)
        out = {"image_features": f_c, "text_features": w, "logits": SCALE * f_c @ w.T}
        loss = F.cross_entropy(out["logits"], labels)
        if f_r is not None:
            out["logits_rep"] = SCALE * f_r @ w.T
            loss = s.alpha * loss + (1 - s.alpha) * F.cross_entropy(out["logits_rep"], labels)
        hold = REGULARISERS[s.regulariser]
        out["loss"] = loss + s.reg_weight * hold(f_c, frozen) + s.reg_weight * hold(w, self._frozen_text)
        return out

    def encode_classes(self, texts: ClassTexts) -> Float[Tensor, "classes d"]:
        return self.text_features(self.text_stem(texts), self.tokens()[1])

    def scores(self, images: Images, classes: Float[Tensor, "classes d"], seen: Seen) -> Logits:
        """Known classes by both features, new ones only by the class feature, docs/equations.md §5, in one set of logits.

        Training fixes the representation logits up to a constant, so beside those of the class feature they are on no
        common scale. Balanced, the known classes share among them what the class feature gives them together.
        """
        s = self.settings
        f_c, f_r = self.image_features(self.clip.visual.stem(images, self.image_first), self.tokens()[0])
        by_class = SCALE * f_c @ classes.T
        if f_r is None:
            return by_class
        both = (seen & (s.seen_scores == "both")) | (~seen & (s.new_scores == "both"))
        by_rep = torch.where(both, SCALE * f_r @ classes.T, by_class)
        if s.mixed_scores == "raw":
            return self._fuse(by_class, by_rep)

        def known(x: Tensor) -> Tensor:
            return x.masked_fill(~both, -torch.inf)

        fused = self._fuse(known(by_class), known(by_rep))
        level = known(by_class).logsumexp(-1, keepdim=True) - fused.logsumexp(-1, keepdim=True)
        return torch.where(both.all(), fused, torch.where(both, fused + level, by_class))

    def _fuse(self, by_class: Tensor, by_rep: Tensor) -> Tensor:
        """α·ℓ_c + (1-α)·ℓ_r, or the logarithm of the same mean of probabilities."""
        alpha = self.settings.alpha
        if self.settings.fusion == "logits":
            return alpha * by_class + (1 - alpha) * by_rep
        return torch.log(alpha * by_class.softmax(-1) + (1 - alpha) * by_rep.softmax(-1))


REGULARISERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": cosine_gap,
    "l1": F.l1_loss,
    "mse": F.mse_loss,
}
"""R(a, b) of unit features, each a mean over the rows."""


def check(s: MMRLSettings, image_layers: int, text_layers: int) -> None:
    """Refuse settings that make no MMRL."""
    depth = min(image_layers, text_layers)
    if s.first_layer is not None and s.first_layer > depth:
        raise SettingsError(f"first_layer is {s.first_layer}, but this backbone's layers are 1 to {depth}.")
