"""Zero-shot accuracy on the embedded data sets, test split: base and novel classes, each among their own."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from icon_batches import MEAN, STD
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor

from fewclip.clip.model import CLIP


def read(path: Path, pixels: int, split: str = "test") -> tuple[Tensor, Tensor, list[str], str]:
    """Normalised images of one split, their labels, the classes and the template."""
    with zipfile.ZipFile(path) as archive:
        meta = json.loads(archive.read("meta.json"))
        rows = [r for r in csv.DictReader(io.StringIO(archive.read("index.csv").decode())) if r["split"] == split]
        images = [Image.open(io.BytesIO(archive.read(r["path"]))).convert("RGB") for r in rows]
    small = [np.asarray(image.resize((pixels, pixels), Image.Resampling.BICUBIC)) for image in images]
    stack = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 255
    labels = torch.tensor([meta["classes"].index(r["class"]) for r in rows])
    return (stack - MEAN[:, None, None]) / STD[:, None, None], labels, meta["classes"], meta["template"]


@torch.no_grad()
def features(clip: CLIP, images: Tensor) -> Tensor:
    return F.normalize(torch.cat([clip.encode_image(part) for part in images.split(256)]), dim=-1)


@torch.no_grad()
def evaluate(clip: CLIP, tokenizer: Tokenizer, folder: Path) -> str:
    """``icons 40.1/38.2`` and so on: accuracy in per cent on base and on novel classes."""
    found = []
    for name in ("icons", "kinds-mono", "concepts"):
        images, labels, classes, template = read(folder / f"{name}.zip", clip.config.image_size)
        image = features(clip, images)
        tokens = torch.tensor([e.ids for e in tokenizer.encode_batch([template.format(c) for c in classes])])
        scores = image @ F.normalize(clip.encode_text(tokens), dim=-1).T
        half = (len(classes) + 1) // 2
        base, novel = labels < half, labels >= half
        right = (scores[base, :half].argmax(1) == labels[base]).float().mean().item()
        right_novel = (scores[novel, half:].argmax(1) + half == labels[novel]).float().mean().item()
        found.append(f"{name} {100 * right:.1f}/{100 * right_novel:.1f}")
    return "  ".join(found)
