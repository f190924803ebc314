"""Images a second of an adapted CLIP against the plain image tower, in one process, alternating.

    python benchmarks/predict.py --batch 1,32,256 --classes 100 --json rows.json

`adapted` is `Method.scores`: the tower with the method's tokens, both features, logits over all classes. It is compared
with three towers that give image features and nothing else: `plain`, fewclip's own without a method; `stock`, the same
written with torch's modules as the published code does; and `transformers`' CLIP where it can be imported. `ratio` is
adapted to plain, the hardest of the three. ViT-B/16, random weights, pixels in memory: no decoding.
Needs torch, numpy, Pillow, safetensors and tokenizers.
"""

from __future__ import annotations

import statistics
import sys
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import common
import torch
from common import ROOT  # noqa: F401 - puts fewclip and tests on the path
from mmrl_plain import Layer
from torch import Tensor

from fewclip.clip.layers import Block
from fewclip.clip.model import CLIP
from fewclip.methods import METHODS, make_settings

COLUMNS = {"method": "method", "batch": "batch"} | {
    key: key.replace("_per_second", "/s")
    for key in ("adapted_per_second", "plain_per_second", "stock_per_second", "transformers_per_second")
}
RATIOS = {"ratio": "to plain", "ratio_stock": "to stock", "ratio_transformers": "to transf.", "note": "note"}


def stock_tower(clip: CLIP) -> Callable[[Tensor], Tensor]:
    """The image tower by torch's own modules, sequence first, as the published code computes it."""
    visual = clip.visual
    blocks = [Layer(block, None) for block in visual.transformer.resblocks if isinstance(block, Block)]

    def run(images: Tensor) -> Tensor:
        x = visual.embed(images).permute(1, 0, 2)
        for block in blocks:
            x = block(x)
        return visual.ln_post(x[0]) @ visual.proj

    return run


def transformers_tower(clip: CLIP) -> Callable[[Tensor], Tensor] | None:
    """transformers' tower of the same sizes, or None where it is not installed."""
    try:
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
    except ImportError:
        return None
    c = clip.config
    config = CLIPVisionConfig(
        hidden_size=c.vision_width,
        intermediate_size=c.vision_mlp or 4 * c.vision_width,
        projection_dim=c.embed_dim,
        num_hidden_layers=c.vision_layers,
        num_attention_heads=c.vision_heads,
        image_size=c.image_size,
        patch_size=c.patch_size,
        hidden_act="quick_gelu" if c.quick_gelu else "gelu",
    )
    model = CLIPVisionModelWithProjection(config).eval().to(clip.device)
    return lambda images: model(pixel_values=images).image_embeds


@torch.no_grad()
def measure(options: Namespace, clip: CLIP, name: str, batch: int) -> dict[str, Any]:
    device, size = clip.device, clip.config.image_size
    images = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    row: dict[str, Any] = {"method": name, "batch": batch, "classes": options.classes, "precision": options.precision}
    try:
        method = METHODS[name](clip, make_settings(name, {}), options.classes).to(device).eval()
        classes = method.encode_classes(common.class_texts(clip, options.classes))
        seen = torch.ones(options.classes, dtype=torch.bool, device=device)
        method.scores(images[:1], classes, seen)
    except Exception as error:  # a method that must have been trained first
        return row | {"note": f"skipped: {str(error).splitlines()[0] if str(error) else type(error).__name__}"}
    towers: dict[str, Callable[[Tensor], Tensor] | None] = {
        "adapted": lambda x: method.scores(x, classes, seen),
        "plain": clip.encode_image,
        "stock": stock_tower(clip),
        "transformers": transformers_tower(clip),
    }

    def run(tower: Callable[[Tensor], Tensor]) -> Tensor:
        with common.autocast(options.precision, device):
            return tower(images)

    works = {key: (lambda tower=tower: run(tower)) for key, tower in towers.items() if tower is not None}
    for work in works.values():
        work()
    times = common.alternate(works, max(options.repeats, 32 // batch), device)
    for key, values in times.items():
        row |= common.milliseconds(key, values)
        row[f"{key}_per_second"] = round(batch / statistics.median(values), 2)
    for key in ("plain", "stock", "transformers"):
        if key in times:
            suffix = "" if key == "plain" else f"_{key}"
            row[f"ratio{suffix}"] = round(row["adapted_per_second"] / row[f"{key}_per_second"], 3)
    if "transformers" not in times:
        row["note"] = "transformers is not installed"
    return row


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--batch", default="1,32,256", help="batch sizes, separated by commas")
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--methods", default="mmrl,mmrlpp", help="names, separated by commas, or all")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--backbone", choices=["vit-b16", "tiny"], default="vit-b16")
    options = parser.parse_args()
    device = common.device(options)
    clip = common.backbone(options.backbone, device)
    about, rows = common.machine(device), []
    names = list(METHODS) if options.methods == "all" else options.methods.split(",")
    for name in names:
        for batch in common.numbers(options.batch):
            rows.append(measure(options, clip, name, batch))
            common.write(options.json, about, rows)
            print(rows[-1], file=sys.stderr, flush=True)
    print(f"{about['processor']}, {about['threads']} threads, {device}")
    print(common.table(rows, COLUMNS | RATIOS))


if __name__ == "__main__":
    main()
