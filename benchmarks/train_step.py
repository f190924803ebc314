"""A training step of fewclip against the same step computed the published way, side by side in one process.

    python benchmarks/train_step.py --classes 10,50,400 --batch 4,8 --methods mmrl,mmrlpp --json rows.json

Both compute the same loss and gradients (checked, and printed as `loss_error` and `gradient_error`) on a ViT-B/16 with
random weights; time depends on shapes alone. The yardstick is `tests/naive.py`: two full CLIP passes, 77 + K text
tokens for every class at every step, `nn.MultiheadAttention` with a dense float mask, sequence first. A step is
forward, backward and AdamW. The two alternate, and the ratio is that of their medians. Needs torch, numpy, Pillow,
safetensors, tokenizers and jaxtyping, nothing else.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

from naive import NaiveMMRL  # noqa: E402
from small import VIT_B16  # noqa: E402

from fewclip.clip.model import CLIP  # noqa: E402
from fewclip.clip.prompts import Prompts  # noqa: E402
from fewclip.methods import METHODS, make_settings  # noqa: E402
from fewclip.methods.mmrl import MMRL  # noqa: E402

BOT, EOT = 49406, 49407


@dataclass
class Work:
    """One step to time, and what it computes."""

    loss: Callable[[], Tensor]
    parameters: Sequence[Tensor]

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(self.parameters, lr=0.0)  # lr 0: both keep computing the same

    def step(self) -> Tensor:
        self.optimizer.zero_grad()
        loss = self.loss()
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def prompts(classes: int, generator: torch.Generator) -> Tensor:
    """Token ids (C, 77) of "a photo of a NAME." with names of one to three tokens."""
    rows = torch.zeros(classes, 77, dtype=torch.long)
    for row in rows:
        name = torch.randint(1000, 40000, (int(torch.randint(1, 4, (), generator=generator)),), generator=generator)
        ids = [BOT, 320, 1125, 539, 320, *name.tolist(), 269, EOT]
        row[: len(ids)] = torch.tensor(ids)
    return rows


def seconds(work: Work, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(clip: CLIP, name: str, classes: int, batch: int, repeats: int, naive: bool) -> dict[str, Any]:
    """One row: medians of both, their ratio, and how far their losses and gradients are apart."""
    generator, device = torch.Generator().manual_seed(0), clip.device
    images = torch.randn(batch, 3, 224, 224, generator=generator).to(device)
    labels = torch.randint(classes, (batch,), generator=generator).to(device)
    ids = prompts(classes, generator).to(device)
    torch.manual_seed(0)
    method = METHODS[name](clip, make_settings(name, {})).to(device)
    assert isinstance(method, MMRL)
    method.prepare(Prompts.from_tokens(ids.cpu()))
    parameters = list(method.parameters())
    works = {"ours": Work(lambda: method.loss(images, labels)["loss"], parameters)}
    if naive:
        reference = NaiveMMRL(clip, method, ids)
        works["naive"] = Work(lambda: reference.loss(images, labels), parameters)
    losses, gradients = {}, {}
    for key, work in works.items():  # warm-up, and what they compute
        losses[key] = float(work.step())
        gradients[key] = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).clone()
    times: dict[str, list[float]] = {key: [] for key in works}
    for _ in range(repeats):
        for key, work in works.items():
            times[key].append(seconds(work, device))
    row: dict[str, Any] = {"method": name, "classes": classes, "batch": batch, "device": str(device)}
    for key, values in times.items():
        row[f"{key}_ms"] = round(1000 * statistics.median(values), 1)
        row[f"{key}_ms_range"] = [round(1000 * min(values), 1), round(1000 * max(values), 1)]
    row["ours_ms_per_image"] = round(row["ours_ms"] / batch, 2)
    if naive:
        row["ratio"] = round(statistics.median(times["naive"]) / statistics.median(times["ours"]), 2)
        row["loss_error"] = abs(losses["ours"] - losses["naive"]) / abs(losses["naive"])
        row["gradient_error"] = float((gradients["ours"] - gradients["naive"]).norm() / gradients["naive"].norm())
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", default="10,50,400", help="numbers of classes, separated by commas")
    parser.add_argument("--batch", default="8", help="batch sizes, separated by commas")
    parser.add_argument("--methods", default="mmrl,mmrlpp")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-naive", action="store_true", help="time fewclip alone")
    parser.add_argument("--json", type=Path, help="write the rows there")
    options = parser.parse_args()
    torch.manual_seed(0)
    clip = CLIP(VIT_B16).requires_grad_(False).eval().to(options.device)
    rows = []
    print(
        f"{'method':<8}{'classes':>8}{'batch':>6}{'naive ms':>10}{'ours ms':>9}{'ratio':>7}{'loss error':>12}{'grad error':>12}"
    )
    for name in options.methods.split(","):
        for classes in map(int, options.classes.split(",")):
            for batch in map(int, options.batch.split(",")):
                row = compare(clip, name, classes, batch, options.repeats, not options.no_naive)
                rows.append(row)
                print(
                    f"{name:<8}{classes:>8}{batch:>6}{row.get('naive_ms', '-'):>10}{row['ours_ms']:>9}{row.get('ratio', '-'):>7}"
                    f"{row.get('loss_error', float('nan')):>12.1e}{row.get('gradient_error', float('nan')):>12.1e}",
                    flush=True,
                )
    if options.json:
        machine = {"machine": platform.platform(), "threads": torch.get_num_threads(), "torch": torch.__version__}
        options.json.write_text(json.dumps(machine | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
