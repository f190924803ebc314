"""What the benchmarks share: the machine, its matrix-multiply rate, clocks, memory, random ViT-B/16 and prompts."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "examples"), str(ROOT / "tests" / "support")]

from small import VIT_B16, small_config  # noqa: E402

from fewclip.clip import kernels  # noqa: E402
from fewclip.clip.config import Config  # noqa: E402
from fewclip.clip.model import CLIP  # noqa: E402
from fewclip.clip.tokenizer import Tokenizer  # noqa: E402
from fewclip.methods.classes import ClassTexts  # noqa: E402

NO_GPU = "not measured: no GPU was available"


def machine(device: torch.device) -> dict[str, Any]:
    """Where and when a measurement was made."""
    about = {
        "date": datetime.date.today().isoformat(),
        "machine": platform.platform(),
        "processor": processor(),
        "memory_gib": round(memory_gib("MemTotal"), 1),
        "threads": torch.get_num_threads(),
        "clock": _clock,
        "load_before": os.getloadavg()[0],
        "torch": torch.__version__,
        "onednn": kernels._onednn is not None,
        "device": str(device),
    }
    if device.type == "cuda":
        about["gpu"] = torch.cuda.get_device_name(device)
    return about


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def memory_gib(field: str) -> float:
    """A line of /proc/meminfo."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) / 2**20
    except OSError:
        pass
    return float("nan")


def backbone(name: str, device: torch.device) -> CLIP:
    """A frozen CLIP with random weights and CLIP's tokenizer: `vit-b16`, or `tiny` to try a benchmark out."""
    torch.manual_seed(0)
    config: Config = {"vit-b16": VIT_B16, "tiny": small_config(vocab_size=49408, context_length=77)}[name]
    clip = CLIP(config).requires_grad_(False).eval().to(device)
    clip.tokenizer = Tokenizer.clip()
    return clip


def class_texts(clip: CLIP, classes: int) -> ClassTexts:
    """Classes whose names are one to three words, most of them a token each."""
    assert clip.tokenizer is not None
    words = sorted(word for word in clip.tokenizer.words() if word.isascii() and word.isalpha() and len(word) > 3)
    generator = torch.Generator().manual_seed(0)

    def draw(most: int) -> int:
        return int(torch.randint(most, (), generator=generator))

    names = {" ".join(words[draw(len(words))] for _ in range(1 + draw(3))): None for _ in range(2 * classes)}
    return ClassTexts(list(names)[:classes], "a photo of a {}.", clip.tokenizer, clip.config.context_length)


def autocast(precision: str, device: torch.device) -> AbstractContextManager[None]:
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
_clock = "wall"


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Time of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = CLOCKS[_clock]()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return CLOCKS[_clock]() - start


def alternate(works: Mapping[str, Callable[[], object]], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each work, one after the other, round by round, so that all see the same machine."""
    times: dict[str, list[float]] = {key: [] for key in works}
    for _ in range(repeats):
        for key, work in works.items():
            times[key].append(seconds(work, device))
    return times


def milliseconds(key: str, times: list[float]) -> dict[str, Any]:
    """Median and range, as a row has them."""
    return {
        f"{key}_ms": round(1000 * statistics.median(times), 2),
        f"{key}_ms_range": [round(1000 * min(times), 2), round(1000 * max(times), 2)],
    }


def matrix_rate(device: torch.device, precision: str) -> float:
    """The most floating-point operations a second that a large product reaches here, by torch or by our kernels."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    best, size = 0.0, 8192 if device.type == "cuda" else 2048
    for rows, wide, out in ((size, size, size), (1616, 768, 3072), (1616, 3072, 768)):
        x, weight = (torch.randn(n, wide, device=device, dtype=dtype) for n in (rows, out))
        for product in (kernels.linear, F.linear):
            with torch.no_grad():
                took = min(seconds(lambda: product(x, weight, None), device) for _ in range(4))  # noqa: B023
            best = max(best, 2 * rows * wide * out / took)
    return best


def flops(work: Callable[[], object]) -> int:
    """Floating-point operations of a call: products, convolutions and attention, forward and backward."""
    operators = torch.ops.aten
    mapping: dict[Any, Any] = {
        operators._scaled_dot_product_flash_attention_for_cpu: lambda q, k, *_, **__: 4 * _pairs(q, k),
        operators._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, *_, **__: 10 * _pairs(q, k),
    }
    fast, kernels._onednn = kernels._onednn, None  # the counter knows torch's own operators
    try:
        counter = FlopCounterMode(display=False, custom_mapping=mapping)
        counter.mod_tracker = _NoModules()  # type: ignore[assignment] # its hooks fail where a trained tensor enters a module
        with counter:
            work()
    finally:
        kernels._onednn = fast
    return int(counter.get_total_flops())


class _NoModules(nullcontext[None]):
    """In place of what counts by module: all belongs to the whole."""

    parents = frozenset({"Global"})


def _pairs(q: Any, k: Any) -> int:
    """Query-key pairs times head width."""
    batch, heads, asking, width = q
    return int(batch * heads * asking * k[-2] * width)


def reset_peak() -> None:
    """Start the peak of this process's memory anew, where the system lets us."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def status_mib(field: str) -> float:
    """VmHWM (peak) or VmRSS (now) of this process."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field + ":"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def table(rows: list[dict[str, Any]], columns: dict[str, str]) -> str:
    """Rows as text; `columns`: key of a row -> heading."""
    cells = [list(columns.values())] + [[_text(row.get(key)) for key in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in cells)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.1e}" if 0 < abs(value) < 5e-3 else f"{value:,.2f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def write(path: Path | None, about: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(about | {"rows": rows}, indent=1, ensure_ascii=False) + "\n")


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", type=Path, help="write the rows there")
    made.add_argument("--repeats", type=int, default=5, help="rounds; medians are reported")
    made.add_argument("--threads", type=int, help="threads of a CPU; by default torch's choice")
    clock = "cpu: processor time instead of wall time, for a machine that others use; with --threads 1"
    made.add_argument("--clock", choices=list(CLOCKS), default="wall", help=clock)
    made.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return made


def device(options: argparse.Namespace) -> torch.device:
    """The device of the options, with its threads set; ends the program where there is none."""
    global _clock
    _clock = options.clock
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print(NO_GPU)
        write(options.json, machine(torch.device("cpu")) | {"skipped": NO_GPU}, [])
        raise SystemExit(0)
    return torch.device(options.device)


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]
