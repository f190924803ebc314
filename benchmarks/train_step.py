"""A training step of fewclip against the same step computed the published way, side by side in one process.

    python benchmarks/train_step.py --classes 10,50,400 --batch 4,8 --methods mmrl,mmrlpp --json rows.json

Both compute the same loss and gradients (checked, and printed as errors) on a ViT-B/16 with random weights; time
depends on shapes alone. The yardstick is `tests/naive.py`: two full CLIP passes, 77 + K text tokens for every class at
every step, `nn.MultiheadAttention` with a dense float mask, sequence first. A step is forward, backward and AdamW.

The two alternate, and `ratio` is that of their medians. `--plain` adds a third: fewclip's algebra on torch's own
matrix products. A naive step that would not fit into memory is not run: its row says so, `naive_peak_mib_predicted` and,
if smaller numbers of classes were measured in this run, `…_extrapolated` (a line through the two largest) stand apart
from what was measured. On a CPU peak memory is that of a process of its own, all its pages counted.
Methods without a naive form are timed alone. Needs torch, numpy, Pillow, safetensors and tokenizers, nothing else.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import common
import torch
from common import ROOT  # noqa: F401 - puts fewclip and tests on the path
from naive import NaiveMMRL
from torch import Tensor

from fewclip.clip import kernels
from fewclip.clip.model import CLIP
from fewclip.clip.prompts import Prompts
from fewclip.methods import METHODS, make_settings
from fewclip.methods.base import Method
from fewclip.methods.mmrl import MMRL

COLUMNS = {
    "method": "method",
    "classes": "classes",
    "batch": "batch",
    "naive_ms": "naive ms",
    "ours_ms": "ours ms",
    "ours_ms_per_image": "ms/image",
    "ratio": "ratio",
    "plain_ratio": "plain",
    "share_of_rate": "of rate",
    "naive_peak_mib": "naive MiB",
    "ours_peak_mib": "ours MiB",
    "loss_error": "loss err",
    "gradient_error": "grad err",
    "note": "note",
}


@dataclass
class Work:
    """One step to time, and what it computes."""

    loss: Callable[[], Tensor]
    parameters: Sequence[Tensor]

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(self.parameters, lr=0.0)  # lr 0: all keep computing the same

    def __call__(self) -> Tensor:
        self.optimizer.zero_grad()
        loss = self.loss()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def gradient(self) -> Tensor:
        return torch.cat([p.grad.flatten() for p in self.parameters if p.grad is not None]).clone()


def build(
    options: Namespace, clip: CLIP, name: str, classes: int, batch: int
) -> tuple[Work, Callable[[], Work] | None]:
    """Our step, and how to make the naive one if the method has it."""
    device, size = clip.device, clip.config.image_size
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, size, size, generator=generator).to(device)
    labels = torch.randint(classes, (batch,), generator=generator).to(device)
    ids = common.prompts(classes)
    torch.manual_seed(0)
    method: Method = METHODS[name](clip, make_settings(name, {})).to(device).train()
    parameters = [p for p in method.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("nothing is trained")
    with common.autocast(options.precision, device):
        method.prepare(Prompts.from_tokens(ids))

    def cast(loss: Callable[[], Tensor]) -> Work:
        def run() -> Tensor:
            with common.autocast(options.precision, device):
                return loss()

        return Work(run, parameters)

    def naive() -> Work:
        assert isinstance(method, MMRL)
        reference = NaiveMMRL(clip, method, ids.to(device))
        return cast(lambda: reference.loss(images, labels))

    return cast(lambda: method.loss(images, labels)["loss"]), naive if isinstance(method, MMRL) else None


def naive_mib(clip: CLIP, classes: int, batch: int, tokens: int = 5) -> float:
    """What a naive step needs: 15 widths kept a token and layer from J on, three hidden states of an MLP in passing."""
    c = clip.config
    text, image = classes * (77 + tokens), batch * ((c.image_size // c.patch_size) ** 2 + 1 + tokens)
    kept = (
        15 * (c.text_layers // 2 + 1) * text * c.text_width + 15 * (c.vision_layers // 2 + 1) * image * c.vision_width
    )
    passing = 3 * 4 * max(text * c.text_width, image * c.vision_width)
    weights = 2 * sum(p.numel() for p in clip.parameters())
    return 4 * (kept + passing + weights) / 2**20 + 300


def compare(options: Namespace, clip: CLIP, name: str, classes: int, batch: int, rate: float) -> dict[str, Any]:
    """One row."""
    device = clip.device
    row: dict[str, Any] = {"method": name, "classes": classes, "batch": batch, "precision": options.precision}
    try:
        ours, make_naive = build(options, clip, name, classes, batch)
        ours()
    except Exception as error:  # a method of another kind: say so, go on
        if isinstance(error, MemoryError):
            raise
        return row | {"note": f"skipped: {str(error).splitlines()[0] if str(error) else type(error).__name__}"}
    works: dict[str, Callable[[], Any]] = {"ours": ours}
    if options.plain:
        works["plain"] = lambda: _plain(ours)
    naive = None
    if options.no_naive:
        row["note"] = "ours alone"
    elif make_naive is None:
        row["note"] = "no naive form"
    elif (needs := naive_mib(clip, classes, batch)) > options.max_gib * 1024 and device.type == "cpu":
        row["naive_peak_mib_predicted"] = round(needs)
        row["note"] = f"naive needs about {needs / 1024:.0f} GiB, {options.max_gib:.0f} allowed"
    else:
        works["naive"] = naive = make_naive()
    losses, gradients = {}, {}
    for key, work in (("ours", ours), ("naive", naive)):  # warm-up, and what they compute
        if work is not None:
            losses[key], gradients[key] = float(work()), work.gradient()
    if naive is not None:
        row["loss_error"] = abs(losses["ours"] - losses["naive"]) / abs(losses["naive"])
        row["gradient_error"] = float((gradients["ours"] - gradients["naive"]).norm() / gradients["naive"].norm())
    times = common.alternate(works, options.repeats, device)
    for key, values in times.items():
        row |= common.milliseconds(key, values)
    row["ours_ms_per_image"] = round(row["ours_ms"] / batch, 3)
    if naive is not None:
        row["ratio"] = round(row["naive_ms"] / row["ours_ms"], 2)
        if options.plain:
            row["plain_ratio"] = round(row["naive_ms"] / row["plain_ms"], 2)
    row["gflop"] = round(common.flops(ours) / 1e9, 6)
    row["gflop_per_second"] = round(row["gflop"] / row["ours_ms"] * 1e3, 1)
    row["share_of_rate"] = round(row["gflop_per_second"] * 1e9 / rate, 3)
    if options.memory:
        for key in [key for key in works if key != "plain"]:
            row |= peak(options, key, works[key], row)
    return row


def _plain(work: Callable[[], Any]) -> Any:
    """A step on torch's own matrix products."""
    fast, kernels._onednn = kernels._onednn, None
    try:
        return work()
    finally:
        kernels._onednn = fast


def peak(options: Namespace, key: str, work: Callable[[], Any], row: dict[str, Any]) -> dict[str, Any]:
    """Peak memory of a step; on a CPU in a process of its own."""
    if options.device.startswith("cuda"):
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
        work()
        return {f"{key}_peak_mib": round(torch.cuda.max_memory_allocated() / 2**20)}
    gc.collect()
    arguments = [f"--{name}={row[name]}" for name in ("classes", "batch", "precision")]
    command = [sys.executable, __file__, f"--one={key}", f"--methods={row['method']}", *arguments]
    command += [f"--backbone={options.backbone}", f"--threads={torch.get_num_threads()}", "--device=cpu"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {f"{key}_peak_mib": None, "note": f"memory of {key}: the process ended with {done.returncode}"}
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def one(options: Namespace, clip: CLIP) -> dict[str, Any]:
    """Peak memory of this process over one step, pages of the program and the weights counted, and what it had before."""
    ours, make_naive = build(options, clip, options.methods, int(options.classes), int(options.batch))
    if options.one == "naive":
        assert make_naive is not None
        work = make_naive()
    else:
        work = ours
    gc.collect()
    common.reset_peak()
    before = common.status_mib("VmRSS")
    work()
    key = options.one
    return {f"{key}_peak_mib": round(common.status_mib("VmHWM")), f"{key}_before_step_mib": round(before)}


def extrapolate(rows: list[dict[str, Any]]) -> None:
    """For naive steps that were not run: a line in the number of classes through the two largest that were."""
    for row in rows:
        if "naive_ms" in row or "naive_peak_mib_predicted" not in row:
            continue
        same = [r for r in rows if all(r[k] == row[k] for k in ("method", "batch")) and "naive_ms" in r]
        if len(same) < 2:
            continue
        a, b = sorted(same, key=lambda r: int(r["classes"]))[-2:]
        slope = (b["naive_ms"] - a["naive_ms"]) / (b["classes"] - a["classes"])
        row["naive_ms_extrapolated"] = round(b["naive_ms"] + slope * (row["classes"] - b["classes"]), 1)
        row["ratio_extrapolated"] = round(row["naive_ms_extrapolated"] / row["ours_ms"], 2)
        row["extrapolated_from_classes"] = [a["classes"], b["classes"]]


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--classes", default="10,50,100,500,1000", help="numbers of classes, separated by commas")
    parser.add_argument("--batch", default="4,8,32", help="batch sizes, separated by commas")
    parser.add_argument("--methods", default="mmrl,mmrlpp", help="names, separated by commas, or all")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="bf16: both under autocast")
    parser.add_argument("--no-naive", action="store_true", help="time fewclip alone")
    parser.add_argument("--plain", action="store_true", help="also time fewclip on torch's own matrix products")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="don't measure peak memory")
    available = common.memory_gib("MemAvailable")
    parser.add_argument("--max-gib", type=float, default=0.85 * available, help="memory that a naive step may take")
    parser.add_argument("--backbone", choices=["vit-b16", "tiny"], default="vit-b16")
    parser.add_argument("--one", choices=["ours", "naive"], help="print the peak memory of one step and end")
    options = parser.parse_args()
    device = common.device(options)
    clip = common.backbone(options.backbone, device)
    if options.one:
        print(json.dumps(one(options, clip)))
        return
    rate = common.matrix_rate(device, options.precision)
    about = common.machine(device) | {"matrix_gflop_per_second": round(rate / 1e9, 1)}
    rows = []
    names = list(METHODS) if options.methods == "all" else options.methods.split(",")
    for name in names:
        for batch in common.numbers(options.batch):
            for classes in common.numbers(options.classes):
                rows.append(compare(options, clip, name, classes, batch, rate))
                extrapolate(rows)
                common.write(options.json, about, rows)
                print(common.table(rows[-1:], COLUMNS).split("\n")[1], file=sys.stderr, flush=True)
                gc.collect()
    print(f"{about['processor']}, {about['threads']} threads, {device}; products reach {rate / 1e9:.0f} GFLOP/s")
    print(common.table(rows, COLUMNS))


if __name__ == "__main__":
    main()
