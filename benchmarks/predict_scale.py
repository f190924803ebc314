"""`fewclip predict -o` over many generated images: images a second against the bare image tower, and memory.

    python benchmarks/predict_scale.py --images 100000 --json rows.json

Makes N small JPEGs in WebDataset tars in a temporary folder and an adapter on the embedded CLIP, and gives the command as
a user would. Meanwhile the resident memory of all its processes is added up from /proc (pages that they share count for
each). The tower is timed before and after in as many processes of as many threads: `encode_image` on pixels that lie in
memory, no decoding, no classes.
`ratio` compares images a second; `ratio_cpu` images a second of processor time, start-up and all, which means something on a
machine that others use, too. At the end every row is looked at. Needs the extra `scale`, and Linux for the memory.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from PIL import Image

from fewclip import FewShotClassifier
from fewclip.adapters.adapter import PREDICT_BATCH
from fewclip.clip.model import CLIP
from fewclip.data.read import read_data

SHARD = 10_000


def write_shards(folder: Path, images: int, side: int) -> None:
    """Tars of JPEGs, each image another."""
    random = np.random.default_rng(0)
    folder.mkdir()
    for start in range(0, images, SHARD):
        with tarfile.open(folder / f"{start // SHARD:05d}.tar", "w") as tar:
            for number in range(start, min(start + SHARD, images)):
                coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
                out = io.BytesIO()
                coarse.resize((side, side), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
                info = tarfile.TarInfo(f"{number:09d}.jpg")
                info.size = out.tell()
                out.seek(0)
                tar.addfile(info, out)


def make_adapter(folder: Path, method: str) -> Path:
    data = read_data("icons")
    settings: dict[str, Any] = {} if method == "zero-shot" else {"epochs": 1, "batch_size": 16}
    FewShotClassifier(method, "icon-clip", shots=2, **settings).fit(data.only(data.halves()[0])).save(folder)
    return folder


def tower_worker(threads: int, seconds: float) -> None:
    """Print how many images the tower took in `seconds`, begun when a line comes in."""
    torch.set_num_threads(threads)
    clip = CLIP.from_pretrained("icon-clip").eval().requires_grad_(False)
    size = clip.config.image_size
    pixels = torch.randn(PREDICT_BATCH, 3, size, size)
    with torch.no_grad():
        clip.encode_image(pixels)
        print("ready", flush=True)
        sys.stdin.readline()
        started, spent, count = time.monotonic(), time.process_time(), 0
        while time.monotonic() - started < seconds:
            clip.encode_image(pixels)
            count += len(pixels)
    print(count / (time.monotonic() - started), count / (time.process_time() - spent), flush=True)


def tower_rate(processes: int, threads: int, seconds: float) -> tuple[float, float]:
    """Images a second of the tower alone in all processes together, and images a second of processor time."""
    command = [sys.executable, __file__, "--tower", str(threads), "--seconds", str(seconds)]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    for process in running:
        assert process.stdout is not None
        process.stdout.readline()
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    rates = [[float(number) for number in process.communicate()[0].split()] for process in running]
    return sum(wall for wall, _ in rates), statistics.mean(cpu for _, cpu in rates)


def family(pid: int) -> list[int]:
    """A process and all that it has begun."""
    found = [pid]
    for member in found:
        for task in Path(f"/proc/{member}/task").glob("*/children"):
            try:
                found += [int(n) for n in task.read_text().split()]
            except OSError:
                continue
    return found


def resident_mib(pid: int) -> float:
    """Of a process and all that it has begun."""
    pages = 0
    for member in family(pid):
        try:
            pages += int(Path(f"/proc/{member}/statm").read_text().split()[1])
        except (OSError, IndexError):
            continue
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def watch(command: list[str], work: Path, images: int) -> dict[str, Any]:
    """Run the command; its time, and its memory by how much was done."""
    environment = os.environ | {"PYTHONPATH": str(common.ROOT / "src")}
    started, spent = time.monotonic(), children_cpu()
    process = subprocess.Popen(command, env=environment)
    samples: list[tuple[float, int, float]] = []
    parts = 0
    while process.poll() is None:
        found = sum(1 for _ in work.glob("part-*"))
        parts = max(parts, found)
        samples.append((time.monotonic() - started, parts, resident_mib(process.pid)))
        time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"the command ended with status {process.returncode}")
    seconds, cpu = time.monotonic() - started, children_cpu() - spent
    memory = {}
    for share in (10, 50, 100):
        at = next(n for n, (_, done, _) in enumerate(samples) if done >= share / 100 * parts)
        near = [mib for _, _, mib in samples[max(0, at - 5) : at]]  # before, while all processes are there
        memory[f"mib_at_{share}"] = round(statistics.median(near))
    return {
        "seconds": round(seconds, 1),
        "first_part_s": round(next(s for s, done, _ in samples if done), 1),
        "cpu_seconds": round(cpu, 1),
        "images_per_second": round(images / seconds, 1),
        "images_per_cpu_second": round(images / cpu, 1),
        **memory,
        "mib_peak": round(max(mib for _, _, mib in samples)),
        "samples": [[round(s), done, round(mib)] for s, done, mib in samples[:: max(1, len(samples) // 50)]],
    }


def children_cpu() -> float:
    """Processor seconds of all processes that were begun here and have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def check(out: Path, images: int) -> None:
    """One row an image, each with a class."""
    import pyarrow.parquet as pq

    table = pq.read_table(out, columns=["path", "error", "class"])
    paths = table.column("path").to_pylist()
    assert len(paths) == len(set(paths)) == images, f"{len(paths)} rows of {len(set(paths))} images"
    assert table.column("error").null_count == images
    assert table.column("class").null_count == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=64, help="width and height of an image")
    parser.add_argument("--method", default="zero-shot", help="of the adapter")
    parser.add_argument("--processes", type=int, default=min(8, os.cpu_count() or 1))
    parser.add_argument("--seconds", type=float, default=20.0, help="for which the bare tower is timed, twice")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tower", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.tower:
        tower_worker(options.tower, options.seconds)
        return
    threads = max(1, (os.cpu_count() or 1) // options.processes)
    about = common.machine(torch.device("cpu")) | {"threads": threads, "processes": options.processes}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shards(folder / "shards", options.images, options.side)
        adapter = make_adapter(folder / "adapter", options.method)
        before = tower_rate(options.processes, threads, options.seconds)
        print(f"bare tower: {before[0]:.1f} images/s, {before[1]:.1f} a processor second", file=sys.stderr, flush=True)
        out = folder / "out.parquet"
        command = [sys.executable, "-m", "fewclip", "predict", str(adapter), str(folder / "shards"), "-o", str(out)]
        row = watch([*command, "--processes", str(options.processes)], folder / ".out.parquet.fewclip", options.images)
        load = os.getloadavg()[0]
        after = tower_rate(options.processes, threads, options.seconds)
        check(out, options.images)
    tower, tower_cpu = ((one + other) / 2 for one, other in zip(before, after, strict=True))
    row = {
        "images": options.images,
        "side": options.side,
        "method": options.method,
        **row,
        "tower_before": round(before[0], 1),
        "tower_after": round(after[0], 1),
        "tower_per_cpu_second": round(tower_cpu, 1),
        "ratio": round(row["images_per_second"] / tower, 3),
        "ratio_cpu": round(row["images_per_cpu_second"] / tower_cpu, 3),
        "load_at_end": load,
    }
    common.write(options.json, about, [row])
    print(json.dumps({key: value for key, value in row.items() if key != "samples"}, indent=1))


if __name__ == "__main__":
    main()
