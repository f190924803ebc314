"""`fewclip serve` under load, on this machine alone, against calling the classifier directly.

    python benchmarks/serve_load.py --clients 1,8,32 --seconds 8 --json rows.json

The server is a process of its own; clients are threads of this one that send one embedded drawing after another over kept
connections and compare every answer with what the classifier says without a server. "Direct" is `predict_proba` on the same
bytes, an image a call and 32 a call. Without ADAPTER it is a quickly trained MMRL on the embedded CLIP. `--vit-b16` takes a
ViT-B/16 with random weights instead (the time does not depend on their values; answers are compared all the same).
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests" / "support")]

from fewclip import FewShotClassifier  # noqa: E402
from fewclip.clip.preprocess import read_image  # noqa: E402
from fewclip.data.read import read_data  # noqa: E402

TOLERANCE = 1e-4


def make_adapter(folder: Path, vit: bool) -> Path:
    data = read_data("icons")
    backbone = "icon-clip"
    if vit:
        from safetensors.torch import save_file
        from small import VIT_B16

        from fewclip.clip.model import CLIP

        torch.manual_seed(0)
        backbone = str(folder / "vit-b16.safetensors")
        save_file(CLIP(VIT_B16).state_dict(), backbone, {"quick_gelu": "true"})
    settings: dict[str, Any] = {} if vit else {"epochs": 1, "batch_size": 16}
    classifier = FewShotClassifier("zero-shot" if vit else "mmrl", backbone, shots=4, **settings)
    classifier.fit(data.only(data.halves()[0])).save(folder / "adapter")
    return folder / "adapter"


def drawings(count: int) -> list[bytes]:
    data = read_data("icons", "test")
    images = []
    for n in range(count):
        out = BytesIO()
        read_image(data.images[n * len(data) // count]).save(out, "PNG")
        images.append(out.getvalue())
    return images


class Client(threading.Thread):
    """Sends one image after another until the time is over."""

    def __init__(
        self, number: int, address: str, until: float, bodies: list[bytes], expected: Any, names: list[str]
    ) -> None:
        super().__init__(daemon=True)
        self.number, self.address, self.bodies = number, address, bodies
        self.expected, self.names, self.until = expected, names, until
        self.times: list[float] = []
        self.wrong = self.lost = self.busy = 0

    def run(self) -> None:
        connection = http.client.HTTPConnection(self.address, timeout=120)
        turn = 7 * self.number
        while time.monotonic() < self.until:
            turn = (turn + 1) % len(self.bodies)
            started = time.monotonic()
            try:
                connection.request("POST", "/predict", self.bodies[turn], {"Content-Type": "application/json"})
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException):
                self.lost += 1
                connection.close()
                continue
            if answer.status == 503:
                self.busy += 1
                time.sleep(0.05)
                continue
            self.times.append(time.monotonic() - started)
            self.wrong += answer.status != 200 or not self._right(body, turn)
        connection.close()

    def _right(self, body: bytes, turn: int) -> bool:
        (found,) = json.loads(body)["predictions"]
        shares = {c["name"]: c["probability"] for c in found["classes"]}
        return bool(np.abs(np.array([shares[n] for n in self.names]) - self.expected[turn]).max() < TOLERANCE)


def load(address: str, clients: int, seconds: float, *what: Any) -> dict[str, Any]:
    until = time.monotonic() + seconds
    started = time.monotonic()
    running = [Client(n, address, until, *what) for n in range(clients)]
    for client in running:
        client.start()
    for client in running:
        client.join()
    wall = time.monotonic() - started
    times = sorted(t for client in running for t in client.times)
    return {
        "what": "served",
        "clients": clients,
        "requests": len(times),
        "images_per_second": round(len(times) / wall, 1),
        "p50_ms": round(1000 * times[len(times) // 2], 1),
        "p99_ms": round(1000 * times[min(len(times) - 1, int(0.99 * len(times)))], 1),
        "wrong": sum(c.wrong for c in running),
        "lost": sum(c.lost for c in running),
        "busy": sum(c.busy for c in running),
    }


def direct(classifier: FewShotClassifier, images: list[bytes], batch: int, seconds: float) -> dict[str, Any]:
    times: list[float] = []
    until, place = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        part = [images[(place + n) % len(images)] for n in range(batch)]
        started = time.monotonic()
        classifier.predict_proba(part)
        times.append(time.monotonic() - started)
        place += batch
    return {
        "what": f"direct, {batch} a call",
        "clients": 1,
        "requests": len(times),
        "images_per_second": round(batch * len(times) / sum(times), 1),
        "p50_ms": round(1000 * statistics.median(times), 1),
        "p99_ms": round(1000 * sorted(times)[int(0.99 * (len(times) - 1))], 1),
    }


def batches(address: str) -> tuple[float, float]:
    """Images and runs of the model so far."""
    connection = http.client.HTTPConnection(address, timeout=30)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    found = dict(re.findall(r"^fewclip_batch_images_(sum|count) (\S+)$", text, flags=re.MULTILINE))
    return float(found["sum"]), float(found["count"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", nargs="?", type=Path)
    parser.add_argument("--clients", default="1,8,32")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--vit-b16", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        adapter = options.adapter or make_adapter(Path(folder), options.vit_b16)
        classifier = FewShotClassifier.load(adapter)
        images = drawings(options.images)
        expected = classifier.predict_proba(images)
        bodies = [json.dumps({"images": [base64.b64encode(i).decode()], "top": 100000}).encode() for i in images]
        rows = [direct(classifier, images, size, options.seconds / 2) for size in (1, 32)]
        command = [sys.executable, "-m", "fewclip", "serve", str(adapter), "--port", "0"]
        environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
        environment.pop("FEWCLIP_TOKEN", None)
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        try:
            assert server.stdout is not None
            found = re.search(r"http://(\S+)", server.stdout.readline())
            assert found, "the server did not start"
            what = (bodies, expected, classifier.adapter_.classes)
            load(found[1], 1, 1.0, *what)  # warm
            for clients in map(int, options.clients.split(",")):
                before = batches(found[1])
                row = load(found[1], clients, options.seconds, *what)
                after = batches(found[1])
                rows.append(row | {"images_a_batch": round((after[0] - before[0]) / (after[1] - before[1]), 2)})
            server.terminate()
            assert server.wait(60) == 0
        finally:
            server.kill()
    machine = {
        "machine": platform.processor() or platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()[0],
        "threads": torch.get_num_threads(), "torch": torch.__version__,
        "backbone": "ViT-B/16, random weights" if options.vit_b16 else classifier.adapter_.clip.name,
    }  # fmt: skip
    print(json.dumps(machine))
    print(f"{'':>17} clients  images/s  p50 ms  p99 ms  a batch  wrong  lost   503")
    for row in rows:
        rest = [row.get(name, "") for name in ("images_a_batch", "wrong", "lost", "busy")]
        print(
            f"{row['what']:>17} {row['clients']:7d} {row['images_per_second']:9.1f} {row['p50_ms']:7.1f} {row['p99_ms']:7.1f} "
            f"{rest[0]!s:>8} {rest[1]!s:>6} {rest[2]!s:>5} {rest[3]!s:>5}"
        )
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")
    if any(row.get("wrong") or row.get("lost") for row in rows):
        sys.exit("Answers were wrong or lost.")


if __name__ == "__main__":
    main()
