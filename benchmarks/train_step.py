"""A training step of fewclip against the same step computed the published way, side by side in one process.

    python benchmarks/train_step.py --classes 10,50,400 --batch 4,8 --methods mmrl,mmrlpp --json rows.json

Both compute the same loss and gradients (checked to 1e-4, and printed as errors) on a ViT-B/16 with random weights;
time depends on shapes alone. The yardstick is `examples/mmrl_plain.py` for MMRL and MMRL++, `tests/support/naive_clip.py` for the others:
every pass whole, 77 (+ K) text tokens for every class at every step, `nn.MultiheadAttention` with a dense float mask,
sequence first. A step is the method's own: forward, backward and AdamW.

The two alternate, and `ratio` is that of their medians. `--plain` adds a third: fewclip's algebra on torch's own
matrix products. A naive step that would not fit into memory is not run, and its row reports that. What is predicted
for it has fields of its own: `naive_peak_mib_predicted` and, if smaller numbers of classes were measured in this run,
`…_extrapolated` (a line through the two largest). On a CPU, peak memory is measured in a separate process and counts all of its pages.
Needs only torch, numpy, Pillow, safetensors and tokenizers.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import common
import torch
from steps import NOTHING_DROPPED, Untrained, Work, build

from fewclip.clip import kernels
from fewclip.clip.model import CLIP
from fewclip.methods import METHODS

COLUMNS = {
    "method": "method",
    "classes": "classes",
    "batch": "batch",
    "naive_ms": "naive ms",
    "ours_ms": "ours ms",
    "ours_ms_per_image": "ms/image",
    "ratio": "ratio",
    "plain_ratio": "plain",
    "gflop_ratio": "arithmetic",
    "share_of_rate": "of rate",
    "naive_peak_mib": "naive MiB",
    "ours_peak_mib": "ours MiB",
    "loss_error": "loss err",
    "gradient_error": "grad err",
    "note": "note",
}


TEXTS = {"cocoop": 0, "proda": 4, "plot": 4}
"""Prompts of a class that a step runs, where these are not one; 0: as many as images."""


def naive_mib(clip: CLIP, name: str, classes: int, batch: int, tokens: int = 5) -> float:
    """What a naive step needs: 15 widths kept a token and layer that carries a gradient, three hidden states of an MLP in
    passing. MMRL's begin in the middle of the towers, others' are taken to begin at layer 1."""
    c, half = clip.config, name in ("mmrl", "mmrlpp")
    text, image = classes * (77 + tokens), batch * ((c.image_size // c.patch_size) ** 2 + 1 + tokens)
    text *= TEXTS.get(name, 1) or batch
    image *= 4 if name == "plot" else 1
    layers = [count // 2 + 1 if half else count for count in (c.text_layers, c.vision_layers)]
    kept = 15 * (layers[0] * text * c.text_width + layers[1] * image * c.vision_width)
    passing = 3 * 4 * max(text * c.text_width, image * c.vision_width)
    weights = 2 * sum(p.numel() for p in clip.parameters())
    return 4 * (kept + passing + weights) / 2**20 + 300


def errors(ours: Work, naive: Work) -> dict[str, float]:
    """How far loss and gradients of the last steps of both are apart, relative to the naive ones.

    Raises:
        AssertionError: further than 1e-4, or 5e-2 under bf16.
    """
    gradient, expected = ours.gradient(), naive.gradient()
    found = {
        "loss_error": abs(ours.loss - naive.loss) / abs(naive.loss),
        "gradient_error": float((gradient - expected).norm() / expected.norm()),
    }
    limit = 1e-4 if ours.trainer.dtype is None else 5e-2
    assert max(found.values()) < limit, f"the two ways don't compute the same: {found}"
    return found


def compare(options: Namespace, clip: CLIP, name: str, classes: int, batch: int, rate: float) -> dict[str, Any]:
    """One row."""
    device = clip.device
    row: dict[str, Any] = {"method": name, "classes": classes, "batch": batch, "precision": options.precision}
    try:
        ours, make_naive = build(options, clip, name, classes, batch)
    except Untrained:
        return row | {"note": "skipped: no training steps, features are computed once as published"}
    works: dict[str, Callable[[], Any]] = {"plain": lambda: _plain(ours)} if options.plain else {}
    works["ours"] = ours
    naive = None
    if options.no_naive:
        row["note"] = "only ours"
    elif (needs := naive_mib(clip, name, classes, batch)) > options.max_gib * 1024 and device.type == "cpu":
        row["naive_peak_mib_predicted"] = round(needs)
        row["note"] = f"naive needs about {needs / 1024:.0f} GiB, {options.max_gib:.0f} allowed"
    else:
        works["naive"] = naive = make_naive()
    row["gflop"] = round(common.flops(ours) / 1e9, 6)  # and a warm-up
    if naive is not None:
        row["naive_gflop"] = round(common.flops(naive) / 1e9, 6)
        row["gflop_ratio"] = round(row["naive_gflop"] / row["gflop"], 2)
    times = common.alternate(works, options.repeats, device)
    if naive is not None and name == "clip-lora":  # its dropout falls differently: compared where nothing is dropped
        one, make_other = build(options, clip, name, classes, batch, dropout=NOTHING_DROPPED)
        other = make_other()
        one()
        other()
        row |= errors(one, other)
    elif naive is not None:
        row |= errors(ours, naive)
    for key, values in times.items():
        row |= common.milliseconds(key, values)
    row["ours_ms_per_image"] = round(row["ours_ms"] / batch, 3)
    if naive is not None:
        row["ratio"] = round(row["naive_ms"] / row["ours_ms"], 2)
        rounds = sorted(a / b for a, b in zip(times["naive"], times["ours"], strict=True))
        row["ratio_range"] = [round(rounds[0], 2), round(rounds[-1], 2)]
        if options.plain:
            row["plain_ratio"] = round(row["naive_ms"] / row["plain_ms"], 2)
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
    work = make_naive() if options.one == "naive" else ours
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
