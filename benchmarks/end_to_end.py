"""Wall time of one fit, and where it goes.

    python benchmarks/end_to_end.py --data icons,caltech-101 --root DATA --json rows.json

`icons` is the embedded data with the embedded backbone; `caltech-101` is read from --root (default $FEWCLIP_DATA) with
a ViT-B/16 of random weights. Seconds of the training thread: `wait` for a batch, forward of the `image` and the `text`
tower, backward of each (told apart by when the image features' gradient is ready), `optimiser`, and the `rest` (loss,
bookkeeping). `decode` and `augment` happen in threads beside it, and their seconds are those of all threads together.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import common
import torch
from torch import Tensor

from fewclip import FewShotClassifier
from fewclip.clip.decode import read_image
from fewclip.clip.image_tower import ImageTower
from fewclip.clip.model import CLIP
from fewclip.clip.preprocess import Preprocess
from fewclip.clip.tokenizer import Tokenizer
from fewclip.data import batches as loader
from fewclip.data.read import read_data
from fewclip.methods import find

COLUMNS = ["data", "images", "epochs", "fit_s", "read", "prepare", "wait", "image", "text", "image_back", "text_back"]
COLUMNS += ["optimiser", "rest", "decode", "augment"]


class Clock:
    """Seconds by name, from wrapped functions."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.lock = threading.Lock()
        self.depth = 0
        self.loss_ended = self.image_ready = 0.0

    def add(self, name: str, start: float) -> None:
        with self.lock:
            self.seconds[name] += time.perf_counter() - start

    def timed(self, name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        """`run`, its time counted under the name, and within a training step only once where it calls itself."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            start, outer = time.perf_counter(), name in ("decode", "augment") or self.depth == 0
            self.depth += not name.startswith(("decode", "augment"))
            try:
                return run(*args, **kwargs)
            finally:
                self.depth -= not name.startswith(("decode", "augment"))
                if outer:
                    self.add(name, start)

        return wrapped

    def marked(self, run: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """`ImageTower.finish`, noting when the gradient of its output is there: from then on the image tower is next."""
        timed = self.timed("image", run)

        def ready(grad: Tensor) -> None:
            self.image_ready = self.image_ready or time.perf_counter()

        def wrapped(*args: Any, **kwargs: Any) -> Tensor:
            out: Tensor = timed(*args, **kwargs)
            if out.requires_grad:
                out.register_hook(ready)
            return out

        return wrapped

    def loss(self, run: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            out = run(*args, **kwargs)
            self.add("loss", start)
            self.loss_ended, self.image_ready = time.perf_counter(), 0.0
            return out

        return wrapped

    def step(self, run: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            now = time.perf_counter()
            ready = self.image_ready or now
            self.seconds["text_back"] += ready - self.loss_ended
            self.seconds["image_back"] += now - ready
            out = run(*args, **kwargs)
            self.add("optimiser", now)
            return out

        return wrapped

    def batches(self, run: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def wrapped(*args: Any, **kwargs: Any) -> Iterator[Any]:
            batches = run(*args, **kwargs)
            while True:
                start = time.perf_counter()
                batch = next(batches, None)
                self.add("wait", start)
                if batch is None:
                    return
                yield batch

        return wrapped


@contextmanager
def clocked(clock: Clock, kind: type) -> Iterator[None]:
    """fewclip with the clock at its seams."""
    with (
        mock.patch.object(loader, "read_image", clock.timed("decode", read_image)),
        mock.patch.object(Preprocess, "augment", clock.timed("augment", Preprocess.augment)),
        mock.patch.object(ImageTower, "stem", clock.timed("image", ImageTower.stem)),
        mock.patch.object(ImageTower, "finish", clock.marked(ImageTower.finish)),
        mock.patch.object(CLIP, "text_features", clock.timed("text", CLIP.text_features)),
        mock.patch.object(kind, "prepare", clock.timed("prepare", kind.prepare)),  # type: ignore[attr-defined]
        mock.patch.object(kind, "loss", clock.loss(kind.loss)),  # type: ignore[attr-defined]
        mock.patch.object(torch.optim.AdamW, "step", clock.step(torch.optim.AdamW.step)),
        mock.patch.object(loader.TrainingBatches, "epoch", clock.batches(loader.TrainingBatches.epoch)),
    ):
        yield


def fit(data: str, root: Path, options: Any) -> dict[str, Any]:
    """One row."""
    row: dict[str, Any] = {"data": data, "method": options.method}
    clock = Clock()
    start = time.perf_counter()
    backbone: str | CLIP = "icon-clip"
    if data != "icons":
        if not (root / data).is_dir():
            return row | {"note": f"skipped: {root / data} is absent"}
        backbone = common.backbone("vit-b16", torch.device("cpu"))
        backbone.tokenizer, backbone.preprocess = Tokenizer.clip(), Preprocess(224)
    built = time.perf_counter()
    dataset = read_data(data, "train", root=root)
    clock.add("read", built)
    shots, epochs = options.shots or (16 if data == "icons" else 4), options.epochs or (4 if data == "icons" else 1)
    classifier = FewShotClassifier(options.method, backbone, shots=shots, epochs=epochs, batch_size=options.batch)
    with clocked(clock, find(options.method)):
        began = time.perf_counter()
        classifier.fit(dataset)
        row["fit_s"] = round(time.perf_counter() - began, 2)
    s = clock.seconds
    s["rest"] = row["fit_s"] - sum(s[k] for k in ("prepare", "wait", "loss", "text_back", "image_back", "optimiser"))
    s["rest"] += s.pop("loss") - s["image"] - s["text"]
    row |= {"images": classifier.adapter_.training.images, "classes": len(dataset.classes), "epochs": epochs}
    row |= {name: round(value, 3) for name, value in sorted(s.items())} | {"batch": options.batch}
    row["build_backbone"] = round(built - start, 2)
    return row


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--data", default="icons,caltech-101", help="data sets, separated by commas")
    root = Path(os.environ.get("FEWCLIP_DATA", "."))
    parser.add_argument("--root", type=Path, default=root, help="folder of published sets; by default $FEWCLIP_DATA")
    parser.add_argument("--method", default="mmrl")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--shots", type=int, help="images a class; by default 16 of icons, 4 of a published set")
    parser.add_argument("--epochs", type=int, help="by default 4 on icons, 1 on a published set")
    options = parser.parse_args()
    device = common.device(options)
    about, rows = common.machine(device), []
    for data in options.data.split(","):
        rows.append(fit(data, options.root, options))
        common.write(options.json, about, rows)
        print(rows[-1], file=sys.stderr, flush=True)
    print(common.table(rows, {name: name for name in [*COLUMNS, "note"]}))


if __name__ == "__main__":
    main()
