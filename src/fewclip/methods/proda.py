"""ProDA: a pool of contexts makes each class's feature a distribution; training bounds the expected cross-entropy.

Lu, Liu, Zhang, Liu and Tian, "Prompt Distribution Learning", CVPR 2022 (arXiv 2205.03340), eq. 7-11. No official code is
usable; the open points (α, covariance over Q + 1, which prompts put the name where) follow public ports.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from fewclip.clip.model import CLIP
from fewclip.clip.prompts import Prompts
from fewclip.errors import SettingsError
from fewclip.methods.base import Images, Labels, Logits, Step, normal, unit
from fewclip.methods.classes import ClassTexts
from fewclip.methods.context import Position, Slots, sentence
from fewclip.methods.coop import coop_training
from fewclip.methods.cosine import CosineMethod
from fewclip.methods.settings import Count, Settings, Weight
from fewclip.seeds import generator

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, kw_only=True)
class ProDASettings(Settings):
    pool: Count = 32
    """P: contexts. A quarter has the class name in front, a quarter in the middle, the others at the end."""
    prompt_batch: Count = 4
    """Q: contexts per step."""
    context_tokens: Count = 16
    """Learned vectors of a context."""
    orthogonal_weight: Weight = 0.1
    """α: how strongly the contexts are kept apart."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompt_batch > self.pool:
            raise SettingsError(f"prompt_batch is {self.prompt_batch}, but the pool has only {self.pool} contexts.")


POSITIONS: tuple[Position, ...] = ("end", "middle", "front")


class ProDA(CosineMethod):
    name = "proda"
    title = "ProDA"
    paper = "Lu et al., CVPR 2022"
    trained = "a pool of contexts of the prompt"
    parameters_b16 = "262,144"
    new_classes = "the mean over the pool, with the new name"
    Settings = ProDASettings
    train_settings = coop_training()
    settings: ProDASettings

    def __init__(self, clip: CLIP, settings: ProDASettings | None = None, classes: int = 0) -> None:
        super().__init__(clip, settings, classes)
        s = self.settings
        self.context = normal(s.pool, s.context_tokens, clip.config.text_width)  # (P, n, d_t)
        quarter = s.pool // 4
        self.positions: list[Position] = [
            "front" if i < quarter else "middle" if i < 2 * quarter else "end" for i in range(s.pool)
        ]
        self.batch = list(range(s.prompt_batch))

    def prompts(self, texts: ClassTexts) -> Prompts:
        """One sentence per class, the same whatever the template; its first words are replaced by a context."""
        return texts.prompts(sentence(self.settings.context_tokens))

    def read(self, texts: ClassTexts) -> dict[Position, Slots]:
        """The prompts without the context, for each place of the class name."""
        prompts, names = self.prompts(texts), texts.name_lengths
        places = [p for p in POSITIONS if p in self.positions]
        count, share = self.settings.context_tokens, len(places)
        return {p: Slots(self.clip, prompts, count, p, names=names, share=share) for p in places}

    def prepare(self, texts: ClassTexts) -> None:
        super().prepare(texts)
        # Contexts are kept apart by their features without a class: the first class's prompt, less its name.
        prompts = self.prompts(texts)
        count, name, eot = self.settings.context_tokens, int(texts.name_lengths[0]), int(prompts.eot[0])
        row = prompts.tokens[:1]
        nameless = torch.cat([row[:, : 1 + count], row[:, 1 + count + name : eot + 1]], dim=1)
        self._nameless = Slots(self.clip, Prompts.from_tokens(nameless), count)

    def text_features(self, slots: dict[Position, Slots], batch: list[int]) -> Float[Tensor, "classes q dim"]:
        """Unit features of some of the pool's contexts: those with the name at the end, in the middle, in front."""
        features = []
        for position, filled in slots.items():
            rows = [i for i in batch if self.positions[i] == position]
            if rows:
                features.append(unit(self.clip.text_features(filled.fill(self.context[rows]))))
        return torch.cat(features).transpose(0, 1)

    def loss(self, images: Images, labels: Labels) -> dict[str, Tensor]:
        """CE(s f μ + s²/2·var, y) + α·mean |cos| of the nameless prompts."""
        f, w = self.image_features(images), self.text_features(self._read, self.batch)
        mean = w.mean(1)
        out = {"text_features": w, "logits_mean": self.scale * f @ mean.T}
        out["sigma"] = self.variance(f, w - mean[:, None], labels)
        out["logits"] = out["logits_mean"] + self.scale**2 / 2 * out["sigma"]
        out["loss_upper"] = F.cross_entropy(out["logits"], labels)
        apart = unit(self.clip.text_features(self._nameless.fill(self.context))).squeeze(-2)  # (P, d)
        cosines = (apart @ apart.T).abs()
        pairs = len(apart) * (len(apart) - 1)
        out["loss_orth"] = (cosines.sum() - cosines.diagonal().sum()) / max(1, pairs)
        out["loss"] = out["loss_upper"] + self.settings.orthogonal_weight * out["loss_orth"]
        return out

    def variance(self, f: Float[Tensor, "batch dim"], spread: Float[Tensor, "classes q dim"], labels: Labels) -> Logits:
        """Variance of f·(w_y - w_c) over the prompts, dimensions taken as independent: Σ_qj f_j²·(D_yqj - D_cqj)²/(Q + 1)."""
        with torch.autocast(f.device.type, enabled=False):  # times s²/2 ≈ 5000
            squares, spread = f.float().square(), spread.float()
            rows = [
                ((spread[y] - spread).square() @ weight).sum(-1)
                for y, weight in zip(labels.tolist(), squares, strict=True)
            ]
        return torch.stack(rows) / (spread.shape[1] + 1)

    def step(self, step: Step) -> Tensor:
        """The pool is drawn in random groups of Q, and shuffled again when it is used up."""
        groups = max(1, self.settings.pool // self.settings.prompt_batch)
        turn, group = divmod(step.number, groups)
        order = torch.randperm(self.settings.pool, generator=generator(step.seed, "pool", turn)).tolist()
        self.batch = order[group * self.settings.prompt_batch :][: self.settings.prompt_batch]
        return super().step(step)

    def class_features(self, read: dict[Position, Slots]) -> Float[Tensor, "classes dim"]:
        """The mean over the pool, not normalised again."""
        groups = torch.arange(self.settings.pool).split(self.settings.prompt_batch)
        total = torch.stack([self.text_features(read, group.tolist()).sum(1) for group in groups]).sum(0)
        return total / self.settings.pool
