"""Pre-train the embedded CLIP of icons, from the npm packages to the weights.

    pip install resvg-py scipy
    python recipes/pretrain_icons.py --work /tmp/icons

Machine: two shared CPU cores (AMD EPYC, avx512_bf16), PyTorch 2.13.  Time: 36 minutes of training, and 2 for drawings.
Result, zero-shot accuracy on base / novel classes: icons 34.8 / 18.1, kinds-mono 38.3 / 19.1, concepts 89.1 / 92.1 %.
The shipped weights come from two calls instead of one: 2,400 of 3,200 + 1,200 steps, then ``--resume`` with 2,400 +
1,350.  The defaults below do the same in one call, but for the learning rate, which then follows one cosine; that call
has not been timed or measured.  What went in, what was tried: docs/icons.md.  Licences accepted: recipes/corpus.py.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from corpus import EMOJI, HELD_OUT, ICONIFY, collections, draw, fetch, icons, read_set
from icon_batches import Batch, Batches, cosine, regions
from icon_tokenizer import train_tokenizer
from icon_zero_shot import evaluate
from kinds import LABELS, Emoji, labels
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from fewclip.clip.config import Config
from fewclip.clip.model import CLIP

ROOT = Path(__file__).parents[1] / "src" / "fewclip"


@dataclass
class Recipe:
    batch: int = 256
    rate: float = 1e-3
    decay: float = 0.1
    warm: int = 200
    steps_small: int = 2400  # at 32 pixels
    steps_large: int = 1350  # at 48 pixels
    average: float = 0.998  # of the exponential average of the weights, which is what ships
    seed: int = 0


SIZES = Config(
    embed_dim=128, image_size=32, patch_size=8, vision_width=192, vision_layers=6, vision_heads=6,
    context_length=32, vocab_size=4096, text_width=128, text_layers=6, text_heads=4,
)  # fmt: skip


class Learner(nn.Module):
    """The CLIP, and a learned proxy for every concept and kind that both towers are also drawn to; dropped afterwards."""

    def __init__(self, config: Config, meanings: int) -> None:
        super().__init__()
        self.clip = CLIP(config).requires_grad_(True)
        self.proxies = nn.Parameter(torch.randn(meanings, config.embed_dim) * config.embed_dim**-0.5)
        self.proxy_scale = nn.Parameter(torch.tensor(2.5))

    def forward(self, batch: Batch, tokens: Tensor, kinds: int) -> dict[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            image, text = self.clip.encode_image(batch.pixels), self.clip.encode_text(tokens)
        image, text = F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)
        proxies = F.normalize(self.proxies, dim=-1) * self.proxy_scale.exp().clamp(max=50)
        similarity = image @ text.T * self.clip.logit_scale.exp().clamp(max=60)
        losses = {"pairs": (pair_loss(similarity, batch.positive) + pair_loss(similarity.T, batch.positive.T)) / 2}
        for name, feature, proxy, rivals in (
            ("image", image, batch.concept, proxies),
            ("kind", image, batch.kind, proxies[:kinds]),
            ("text", text, batch.meaning, proxies),
        ):
            losses[name] = F.cross_entropy(feature[proxy >= 0] @ rivals.T, proxy[proxy >= 0])
        return losses


def attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    """Scaled dot-product attention written out: on sequences this short 2.5 times as fast as PyTorch's on a CPU."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if is_causal:
        scores = scores + torch.full(scores.shape[-2:], -1e4, dtype=scores.dtype).triu(1)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -1e4)
    return scores.softmax(-1).to(v.dtype) @ v


def pair_loss(similarity: Tensor, positive: Tensor) -> Tensor:
    """Each true pair against the false ones of its row; another true pair is no rival."""
    rivals = similarity.masked_fill(positive, -torch.inf).logsumexp(1, keepdim=True)
    each = F.softplus(rivals - similarity)
    count = positive.sum(1)
    return ((each * positive).sum(1)[count > 0] / count[count > 0]).mean()


def enlarge(clip: CLIP, pixels: int) -> CLIP:
    """The same CLIP for larger images: its patch positions are interpolated."""
    config = replace(clip.config, image_size=pixels)
    state = clip.state_dict()
    position = state["visual.positional_embedding"]
    old, new = clip.config.image_size // clip.config.patch_size, pixels // config.patch_size
    grid = position[1:].T.reshape(1, -1, old, old)
    grid = F.interpolate(grid, (new, new), mode="bicubic", align_corners=False)
    state["visual.positional_embedding"] = torch.cat([position[:1], grid.flatten(2)[0].T])
    larger = CLIP(config)
    larger.load_state_dict(state)
    return larger.requires_grad_(True)


def save(clip: CLIP, tokenizer: Tokenizer, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().half().contiguous() for k, v in clip.state_dict().items()}
    save_file(state, folder / "new.safetensors")
    plain = Tokenizer.from_str(tokenizer.to_str())
    plain.no_padding()
    plain.save(str(folder / "new.json"))
    (folder / "new.config").write_text(json.dumps(asdict(clip.config), indent=1) + "\n")
    for new, name in (
        ("new.safetensors", "model.safetensors"),
        ("new.json", "tokenizer.json"),
        ("new.config", "config.json"),
    ):
        (folder / new).chmod(0o644)
        os.replace(folder / new, folder / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, default=Path("/tmp/fewclip-icons"), help="packages and drawings are kept here"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "clip" / "icon_clip")
    parser.add_argument("--every", type=int, default=500, help="steps between evaluations and snapshots")
    parser.add_argument("--resume", type=Path, help="a checkpoint to go on from")
    for name, value in asdict(Recipe()).items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(value), default=value)
    args = parser.parse_args()
    recipe = Recipe(**{name: getattr(args, name) for name in asdict(Recipe())})
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(2)
    F.scaled_dot_product_attention = attention  # type: ignore[assignment]

    package = fetch(ICONIFY, args.work)
    emoji = Emoji(fetch(EMOJI, args.work), [read_set(package, s) for s in ("noto", "fluent-emoji-flat")])
    wanted = list(icons(package, [s for s in collections(package) if s not in HELD_OUT]))
    drawings = draw(package, wanted, args.work / "drawings" / "pretrain")
    cached = args.work / "drawings" / "regions.npy"
    if not cached.exists():
        np.save(cached, regions(drawings))
    kinds = [emoji.kind_of_words(icon.caption) for icon in wanted]
    filed = [labels(icon.categories) for icon in wanted]
    batches = Batches(wanted, drawings, np.load(cached, mmap_mode="r"), kinds, filed, recipe.seed)
    kinds_count, count = len(batches.kinds), sum(map(len, batches.of))
    print(
        f"{count} drawings, {len(batches.concepts)} concepts, {kinds_count} kinds, {batches.proxies} proxies",
        flush=True,
    )
    tokenizer = train_tokenizer([*batches.concepts, *LABELS], SIZES.vocab_size)
    tokenizer.enable_padding()

    learner = Learner(replace(SIZES, vocab_size=tokenizer.get_vocab_size()), batches.proxies)
    print(f"{sum(p.numel() for p in learner.clip.parameters()) / 1e6:.2f} M parameters", flush=True)
    averaged = copy.deepcopy(learner)
    steps, start, begun = recipe.steps_small + recipe.steps_large, 0, time.time()
    if args.resume:
        saved = torch.load(args.resume)
        start = saved["step"]
        if start > recipe.steps_small:
            learner.clip, averaged.clip = enlarge(learner.clip, 48), enlarge(averaged.clip, 48)
        learner.load_state_dict(saved["learner"])
        averaged.load_state_dict(saved["averaged"])
        batches.random = np.random.default_rng([recipe.seed, start])
    optimizer, since = torch.optim.AdamW(learner.parameters()), start
    for step in range(start, steps):
        if step == recipe.steps_small:
            learner.clip, averaged.clip = enlarge(learner.clip, 48), enlarge(averaged.clip, 48)
        if step in (start, recipe.steps_small):
            matrices = [p for p in learner.parameters() if p.ndim > 1]
            others = [p for p in learner.parameters() if p.ndim <= 1]
            groups = [{"params": matrices, "weight_decay": recipe.decay}, {"params": others, "weight_decay": 0.0}]
            optimizer, since = torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6, fused=True), step
        fresh = min(1.0, (step - since + 1) / 50)  # moments just reset: at the start, at a change of size, on resuming
        rate = recipe.rate * fresh * cosine(step, steps, recipe.warm)
        for group in optimizer.param_groups:
            group["lr"] = rate
        strength = min(1.0, max(0.0, (step - 0.1 * steps) / (0.4 * steps)))
        batch = batches.sample(recipe.batch, learner.clip.config.image_size, strength)
        tokens = torch.tensor([e.ids for e in tokenizer.encode_batch(batch.texts)])
        losses = learner(batch, tokens, kinds_count)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            keep = min(recipe.average, (step + 1) / (step + 10))
            torch._foreach_lerp_(list(averaged.parameters()), list(learner.parameters()), 1 - keep)
        if step % 50 == 0:
            parts = " ".join(f"{k} {v.item():.2f}" for k, v in losses.items())
            print(f"{step:5d} {time.time() - begun:6.0f} s  {parts}  rate {rate:.1e}", flush=True)
        if (step + 1) % args.every == 0 or step + 1 == steps:
            found = evaluate(averaged.clip, tokenizer, ROOT / "data" / "embedded")
            print(f"{step + 1:5d} {time.time() - begun:6.0f} s  zero-shot  {found}", flush=True)
            save(averaged.clip, tokenizer, args.out)
            state = {"step": step + 1, "learner": learner.state_dict(), "averaged": averaged.state_dict()}
            torch.save(state, args.work / "pretrain.pt.new")
            os.replace(args.work / "pretrain.pt.new", args.work / "pretrain.pt")


if __name__ == "__main__":
    main()
