"""An exported graph by onnxruntime against the same classifier by torch, alternating in one process.

    python benchmarks/export.py --backbones icon-clip,vit-b16 --batch 1,8 --json rows.json

Both take normalised pixels to probabilities over the known classes of a quickly trained MMRL; `vit-b16` has random weights
(time depends on shapes alone). The class features are folded into both, and both may use the same number of threads. `error`
is the largest difference of two probabilities; the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests" / "support")]

from small import VIT_B16  # noqa: E402

from fewclip import FewShotClassifier  # noqa: E402
from fewclip.adapters.onnx import export  # noqa: E402
from fewclip.clip.model import CLIP  # noqa: E402
from fewclip.clip.preprocess import Preprocess  # noqa: E402
from fewclip.clip.tokenizer import Tokenizer  # noqa: E402
from fewclip.data.read import read_data  # noqa: E402


def backbone(name: str) -> str | CLIP:
    if name != "vit-b16":
        return name
    torch.manual_seed(0)
    clip = CLIP(VIT_B16)
    clip.name, clip.tokenizer, clip.preprocess = name, Tokenizer.clip(), Preprocess(VIT_B16.image_size)
    return clip


def classifier(name: str, method: str) -> FewShotClassifier:
    data = read_data("icons")
    settings: dict[str, Any] = {"epochs": 1, "batch_size": 4} if method != "zero-shot" else {}
    few = data.only(
        data.halves()[0][:4]
    )  # that a step on ViT-B/16 be short; the graph's time hardly depends on classes
    return FewShotClassifier(method, backbone(name), shots=1, **settings).fit(few)


def alternate(calls: list[Callable[[], Any]], runs: int) -> list[list[float]]:
    times: list[list[float]] = [[] for _ in calls]
    for n in range(runs + 1):
        for call, own in zip(calls, times, strict=True):
            started = time.perf_counter()
            call()
            if n:  # the first is to warm up
                own.append(1000 * (time.perf_counter() - started))
    return times


def row(name: str, method: str, dtype: Any, batches: list[int], runs: int, threads: int) -> list[dict[str, Any]]:
    model = classifier(name, method)
    encoded, seen = model.adapter_.candidates()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        started = time.perf_counter()
        export(model.adapter_, path, dtype=dtype, dynamic_batch=True, pixels="normalised")
        seconds, size = time.perf_counter() - started, path.stat().st_size
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    rows = []
    for batch in batches:
        pixels = torch.randn(batch, 3, model.adapter_.clip.config.image_size, model.adapter_.clip.config.image_size)

        @torch.no_grad()
        def by_torch(pixels: Tensor = pixels) -> Any:
            return model.adapter_.method.scores(pixels, encoded, seen).softmax(-1).numpy()

        def by_onnx(pixels: Tensor = pixels) -> Any:
            return session.run(None, {"pixels": pixels.numpy()})[0]

        error = float(np.abs(by_torch() - by_onnx()).max())
        a, b = alternate([by_torch, by_onnx], runs)
        rows.append({
            "backbone": name, "method": method, "dtype": dtype, "batch": batch, "torch_ms": round(statistics.median(a), 1),
            "onnx_ms": round(statistics.median(b), 1), "ratio": round(statistics.median(a) / statistics.median(b), 2),
            "torch_range": [round(min(a), 1), round(max(a), 1)], "onnx_range": [round(min(b), 1), round(max(b), 1)],
            "error": error, "megabytes": round(size / 1e6, 1), "export_seconds": round(seconds, 1),
        })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", default="icon-clip,vit-b16")
    parser.add_argument("--methods", default="mmrl")
    parser.add_argument("--dtypes", default="fp32")
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    machine = {
        "machine": platform.processor() or platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()[0],
        "threads": options.threads, "torch": torch.__version__, "onnxruntime": onnxruntime.__version__,
    }  # fmt: skip
    print(json.dumps(machine))
    print("backbone   method     dtype batch  torch ms   onnx ms  ratio    error     MB")
    rows = []
    for name in options.backbones.split(","):
        for method in options.methods.split(","):
            for dtype in options.dtypes.split(","):
                for r in row(
                    name, method, dtype, list(map(int, options.batch.split(","))), options.runs, options.threads
                ):
                    rows.append(r)
                    print(
                        f"{name:<10} {method:<10} {dtype:<5} {r['batch']:5d} {r['torch_ms']:9.1f} {r['onnx_ms']:9.1f} "
                        f"{r['ratio']:6.2f} {r['error']:8.1e} {r['megabytes']:6.1f}",
                        flush=True,
                    )
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
