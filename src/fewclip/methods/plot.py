"""PLOT++: several prompts and several prompted views of an image, matched by optimal transport.

Chen, Yao, Song, Li, Rao and Zhang, "PLOT: Prompt Learning with Optimal Transport for Vision-Language Models", ICLR 2023
(arXiv 2210.01253), eq. 5-9, in the authors' later form for vision transformers: M groups of visual tokens give M
features per image, N contexts N features per class; their similarity is that of the entropic transport plan. The published
"joint" runs start from the visual tokens of a "vision" run (of seed 1, whatever the run's own seed): `stage="two-stage"` trains both,
one after the other, each with all epochs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from fewclip.clip.model import CLIP
from fewclip.clip.prompts import Prompts
from fewclip.clip.tokens import Insertion
from fewclip.errors import SettingsError
from fewclip.methods.base import Images, Logits, normal, unit
from fewclip.methods.classes import ClassTexts
from fewclip.methods.context import Slots, embed_words, sentence
from fewclip.methods.coop import coop_training
from fewclip.methods.cosine import CosineMethod
from fewclip.methods.settings import Count, Positive, Settings, Weight

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, kw_only=True)
class PLOTSettings(Settings):
    context_tokens: Count = 4
    """Learned vectors of each prompt."""
    words: tuple[str, ...] = ("a photo of a", "this is a photo", "this is picture of", "one picture of a")
    """Initial words of the N contexts, one for each prompt of a class."""
    views: Count = 4
    """M: groups of visual tokens, each a pass through the image tower."""
    image_prompts: Count = 2
    """Visual tokens per group."""
    stage: Literal["joint", "vision", "two-stage"] = "joint"
    """Train both sides on the transport's logits; or only the visual tokens, with the logits of mean features added; or, as
    published, first these and then both, each for all epochs."""
    temperature: Positive = 0.1
    """ε of the entropic transport."""
    rounds: Count = 100
    """Maximum number of rounds of Sinkhorn's algorithm."""
    threshold: Weight = 0.01
    """Mean change at which it stops."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.words:
            raise SettingsError(
                "words is empty, but each prompt of a class starts from one of them: give at least one."
            )


class PLOT(CosineMethod):
    name = "plot"
    title = "PLOT++"
    paper = "Chen et al., ICLR 2023"
    trained = "context vectors of several prompts, several groups of image tokens"
    parameters_b16 = "14,336"
    new_classes = "the same contexts before the new name"
    Settings = PLOTSettings
    train_settings = coop_training()
    settings: PLOTSettings

    def __init__(self, clip: CLIP, settings: PLOTSettings | None = None, classes: int = 0) -> None:
        super().__init__(clip, settings, classes)
        s = self.settings
        self.context = normal(len(s.words), s.context_tokens, clip.config.text_width)  # (N, n, d_t)
        self.image = normal(s.views, s.image_prompts, clip.config.vision_width)  # (M, n_v, d_v)
        self.context.requires_grad_(s.stage != "vision")
        self._stage = 1

    def prompts(self, texts: ClassTexts) -> list[Prompts]:
        """N sentences per class; their first words are replaced by the contexts."""
        return [texts.prompts(sentence(self.settings.context_tokens, words)) for words in self.settings.words]

    @property
    def stages(self) -> int:
        return 2 if self.settings.stage == "two-stage" else 1

    def begin_stage(self, stage: int) -> None:
        self._stage = stage

    @torch.no_grad()
    def prepare(self, texts: ClassTexts) -> None:
        for row, prompts in zip(self.context, self.prompts(texts), strict=True):
            row.copy_(embed_words(self.clip, prompts, 1, self.settings.context_tokens))
        super().prepare(texts)

    def read(self, texts: ClassTexts) -> list[Slots]:
        """The prompts without the contexts."""
        count, share = self.settings.context_tokens, len(self.settings.words)
        return [Slots(self.clip, prompts, count, share=share) for prompts in self.prompts(texts)]

    def class_features(self, read: list[Slots]) -> Float[Tensor, "n classes dim"]:
        """h, not normalised."""
        rows = zip(read, self.context, strict=True)
        return torch.stack([self.clip.text_features(one.fill(context)) for one, context in rows])

    def image_features(self, images: Images) -> Float[Tensor, "m batch dim"]:
        """v, not normalised."""
        visual, views = self.clip.visual, len(self.image)
        stem = visual.stem(images)
        tokens = visual.ln_pre(self.image).repeat_interleave(len(images), 0)  # (M · B, n_v, d_v)
        features = visual.features(stem[torch.arange(len(images)).repeat(views)], Insertion(1, [tokens]).image)
        return features.unflatten(0, (views, -1))

    def transport(
        self, v: Float[Tensor, "m batch dim"], h: Float[Tensor, "n classes dim"]
    ) -> tuple[Float[Tensor, "batch classes m n"], Float[Tensor, "batch classes m n"]]:
        """Cosines S of all pairs and the plan T between the M and the N, which carries no gradient."""
        similar = torch.einsum("mbd,ncd->bcmn", unit(v), unit(h))
        return similar, self.plan(similar.detach())

    @torch.no_grad()
    def plan(self, similar: Float[Tensor, "batch classes m n"]) -> Float[Tensor, "batch classes m n"]:
        """Sinkhorn's scaling of exp((S - 1)/ε) to uniform marginals 1/M and 1/N."""
        s, (m, n) = self.settings, similar.shape[-2:]
        kernel = ((similar.float() - 1) / s.temperature).exp()
        r, c = kernel.new_ones(*similar.shape[:2], m, 1), kernel.new_ones(*similar.shape[:2], 1, n)
        for _ in range(s.rounds):
            before = r
            r = 1 / m / (kernel * c).sum(-1, keepdim=True)
            c = 1 / n / (kernel * r).sum(-2, keepdim=True)
            if (r - before).abs().mean() < s.threshold:
                break
        return r * kernel * c

    def matched(self, v: Tensor, h: Tensor) -> dict[str, Tensor]:
        """z1 = s·Σ T S, and z1 + z2 with z2 the scaled cosine of the mean features: (B, C) each."""
        similar, plan = self.transport(v, h)
        joint = self.scale * (plan * similar).sum((-2, -1))
        vision = joint + self.scale * unit(v.mean(0)) @ unit(h.mean(0)).T
        return {"transport_plan": plan, "logits_stage1": vision, "logits_stage2": joint}

    def outputs(self, images: Images) -> dict[str, Tensor]:
        vision = self.settings.stage == "vision" or self._stage < self.stages
        with torch.set_grad_enabled(torch.is_grad_enabled() and not vision):
            h = self.class_features(self._read)
        v = self.image_features(images)
        out = {"image_features": v, "text_features": h} | self.matched(v, h)
        return out | {"logits": out["logits_stage1" if vision else "logits_stage2"]}

    def logits(self, f: Float[Tensor, "m batch dim"], w: Float[Tensor, "n classes dim"]) -> Logits:
        return self.matched(f, w)["logits_stage1" if self.settings.stage == "vision" else "logits_stage2"]
