"""Batches for pre-training: which icons, under which words, in which colours, how turned and sized.

Half of a batch is drawn caption by caption, the other half kind by kind, so that rare kinds (bird) are seen as often
as common ones (electronic device).  A drawing in one colour gets random ink and paper, and random fill where its lines
close an area; a coloured drawing gets random paper.  Everything works on whole batches of precomputed arrays.
"""

# ruff: noqa: SIM905 (lists of words read better as words)
from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from corpus import Icon
from scipy import ndimage  # type: ignore[import-untyped]
from torch import Tensor

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])
TEMPLATES = ["an icon of a {}."] * 6 + ["{}"] * 4 + ["a {}"] * 2 + ["a photo of a {}."] * 2 + ["a drawing of a {}."] * 2
TEMPLATES += ["an icon of a {}", "a picture of a {}.", "a {} icon", "an image of a {}.", "a {} symbol", "itap of a {}."]
SIDED = set(
    "left right east west forward back next previous backward up down corner align undo redo rotate play".split()
)


def regions(drawings: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Areas that the lines of a drawing close: 1 the largest, 2 the next, 3 the rest, 0 outside."""
    out = np.zeros(drawings.shape[:3], np.uint8)
    for i in range(len(drawings)):
        areas, count = ndimage.label(drawings[i, ..., 3] < 110)
        if count < 2:
            continue
        size = np.bincount(areas.ravel(), minlength=count + 1)
        rim = np.unique(np.concatenate([areas[0], areas[-1], areas[:, 0], areas[:, -1]]))
        size[0], size[rim] = 0, 0
        number = np.zeros(count + 1, np.uint8)
        for rank, area in enumerate(np.argsort(-size)[: np.count_nonzero(size > 12)]):
            number[area] = min(rank + 1, 3)
        out[i] = ndimage.grey_dilation(number[areas], size=3)
    return out


@dataclass
class Batch:
    pixels: Tensor
    texts: list[str]
    positive: Tensor  # image × text: does the text apply?
    concept: Tensor  # proxy of each image's concept, -1 without
    kind: Tensor  # proxy of each image's kind, -1 without
    meaning: Tensor  # proxy of each text, -1 without


class Batches:
    def __init__(
        self,
        wanted: list[Icon],
        drawings: npt.NDArray[np.uint8],
        areas: npt.NDArray[np.uint8],
        kinds: list[str],
        labels: list[list[str]],
        seed: int,
    ) -> None:
        self.drawings, self.areas = drawings, areas
        self.colour = np.array([icon.colour for icon in wanted])
        self.random = np.random.default_rng(seed)
        families: dict[str, set[str]] = defaultdict(set)
        for icon in wanted:
            families[icon.caption].add(icon.family)
        self.concepts = sorted(
            {i.caption for i, k in zip(wanted, kinds, strict=True) if k or len(families[i.caption]) > 1}
        )
        self.number = number = {c: i for i, c in enumerate(self.concepts)}
        self.kinds = sorted({kind for kind in kinds if kind})
        kind_number = {k: i for i, k in enumerate(self.kinds)}
        self.of: list[list[int]] = [[] for _ in self.concepts]  # concept → drawings
        self.labels_of: list[set[str]] = [set() for _ in self.concepts]
        self.kind = np.full(len(self.concepts), -1)
        for i, icon in enumerate(wanted):
            if icon.caption in number:
                concept = number[icon.caption]
                self.of[concept].append(i)
                self.labels_of[concept] |= set(labels[i])
                self.kind[concept] = kind_number.get(kinds[i], -1)
        weight = np.array([len(families[c]) for c in self.concepts], float)
        self.weight = weight / weight.sum()
        self.members = {k: np.flatnonzero(self.kind == k) for k in range(len(self.kinds))}
        size = np.array([sum(len(self.of[c]) for c in self.members[k]) for k in range(len(self.kinds))]) ** 0.4
        self.kind_weight = size / size.sum()
        self.member_weight = {k: (w := self.weight[v]) / w.sum() for k, v in self.members.items()}
        frequent = [i for i, c in enumerate(self.concepts) if len(families[c]) >= 3]
        self.proxies = len(frequent) + len(self.kinds)
        self.proxy = np.full(len(self.concepts), -1)  # concept → its proxy, if it is drawn often enough to have one
        self.proxy[frequent] = len(self.kinds) + np.arange(len(frequent))
        self.sided = np.array([bool(SIDED & set(c.split())) for c in self.concepts])

    def sample(self, size: int, pixels: int, strength: float) -> Batch:
        random = self.random
        plain = random.choice(len(self.concepts), size // 2, replace=False, p=self.weight)
        picked = random.choice(len(self.kinds), size - size // 2, p=self.kind_weight)
        concept = np.concatenate([plain, [random.choice(self.members[k], p=self.member_weight[k]) for k in picked]])
        drawing = np.array([self.of[c][random.integers(len(self.of[c]))] for c in concept])
        texts: dict[str, int] = {}
        for c in concept:
            labels = sorted(self.labels_of[c])
            said = str(random.choice(labels)) if labels and random.random() < 0.25 else self.concepts[c]
            texts.setdefault(said, len(texts))
        positive = torch.zeros(size, len(texts), dtype=torch.bool)
        for row, c in enumerate(concept):
            for word in {self.concepts[c], *self.labels_of[c]} & texts.keys():
                positive[row, texts[word]] = True
        templates = random.integers(len(TEMPLATES), size=len(texts))
        flip = ~self.sided[concept] & (random.random(size) < 0.5)
        return Batch(
            self.render(drawing, flip, pixels, strength),
            [TEMPLATES[t].format(w) for t, w in zip(templates, texts, strict=True)],
            positive,
            torch.from_numpy(self.proxy[concept]),
            torch.from_numpy(self.kind[concept]),
            torch.tensor([int(self.proxy[self.number[t]]) if t in self.number else -1 for t in texts]),
        )

    def render(self, drawing: npt.NDArray[np.int64], flip: npt.NDArray[np.bool_], size: int, strength: float) -> Tensor:
        """Coloured, turned and sized drawings as normalised pixels; ``strength`` 0 to 1 says how much they are changed."""
        random, n = self.random, len(drawing)
        order = np.argsort(drawing)  # read the memory map in order
        rgba = np.empty((n, *self.drawings.shape[1:]), np.uint8)
        area = np.empty((n, *self.areas.shape[1:]), np.uint8)
        rgba[order], area[order] = self.drawings[drawing[order]], self.areas[drawing[order]]
        one, many = (random.random(n) < 0.4 * (0.5 + strength / 2)), random.random(n)
        plain = 1 - 0.45 * strength
        paper = np.where((random.random(n) < plain)[:, None], 1.0, random.uniform(0.4, 1, (n, 3)))
        ink = np.where(
            (random.random(n) < plain)[:, None], random.uniform(0, 0.2, (n, 1)), random.uniform(0, 0.85, (n, 3))
        )
        dark = (random.random(n) < 0.1 * strength)[:, None]
        ink, paper = (
            np.where(dark, random.uniform(0.75, 1, (n, 3)), ink),
            np.where(dark, random.uniform(0, 0.35, (n, 3)), paper),
        )
        fill = random.uniform(0.1, 1, (n, 4, 3))
        fill[:, 3] = np.where(one[:, None], fill[:, 1], fill[:, 3])
        keep = (many < 0.9 - 0.55 * strength)[:, None] | (random.random((n, 4)) < 0.25)
        fill = np.where(keep[..., None], paper[:, None], fill)
        fill[:, 0] = paper
        ground = torch.from_numpy(fill.astype(np.float32))
        under = ground[torch.arange(n)[:, None], torch.from_numpy(area).long().flatten(1)].view(n, *area.shape[1:], 3)
        coloured = torch.from_numpy(self.colour[drawing])[:, None, None, None]
        over = torch.from_numpy(rgba[..., :3]).float().div_(255)
        over = torch.where(coloured, over, torch.from_numpy(ink.astype(np.float32))[:, None, None])
        alpha = torch.from_numpy(rgba[..., 3:]).float().div_(255)
        image = under.lerp_(over, alpha).permute(0, 3, 1, 2)
        turn = random.normal(0, 0.04 + 0.12 * strength, n)
        scale = np.exp(random.uniform(-0.05 - 0.15 * strength, 0.12 + 0.28 * strength, n))  # above 1: smaller drawing
        aspect = np.exp(random.normal(0, 0.02 + 0.08 * strength, n))
        shift = random.uniform(-1, 1, (n, 2)) * (0.05 + 0.15 * strength)
        cos, sin = np.cos(turn) * scale, np.sin(turn) * scale
        mirror = np.where(flip, -1.0, 1.0)
        matrix = np.stack(
            [cos * aspect * mirror, -sin / aspect, shift[:, 0], sin * aspect * mirror, cos / aspect, shift[:, 1]], 1
        )
        theta = torch.from_numpy(matrix.astype(np.float32)).view(n, 2, 3)
        grid = F.affine_grid(theta, [n, 3, 2 * size, 2 * size], align_corners=False)
        colour = torch.from_numpy(paper.astype(np.float32))[:, :, None, None]
        moved = F.grid_sample(image - colour, grid, align_corners=False) + colour
        small = F.avg_pool2d(moved, 2)
        return (small - MEAN[:, None, None]) / STD[:, None, None]


def cosine(step: int, steps: int, warm: int) -> float:
    return min(1.0, (step + 1) / warm) * (0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps)))
