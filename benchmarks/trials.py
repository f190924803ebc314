"""What is killed, and what must be true of its files afterwards: fit, bench, predict and save on a tiny backbone."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import common  # noqa: F401 (finds fewclip and the tests' helpers)
import torch
from fault_place import Place
from killing import Ended
from safetensors import safe_open

from fewclip import FewShotClassifier
from fewclip.adapters.config import TrainingSummary
from fewclip.adapters.disk import CARD, CONFIG, WEIGHTS, load_adapter, waiting
from fewclip.bench.rows import MEASURED, ROWS, Row, read_rows
from fewclip.cli import main
from fewclip.cli.fit import CHECKPOINT
from fewclip.errors import AdapterError, OutputError
from fewclip.files.lock import LOCK
from fewclip.files.write import TEMPORARY

FINISHED = {WEIGHTS, CONFIG, CARD}
HALF_WRITTEN = "while a file was being written"


class Wrong(Exception):
    """A guarantee that did not hold."""


class Trial:
    """One command, begun in a folder, killed, looked at, begun again, and judged when it has ended undisturbed."""

    name: str
    variants: tuple[str, ...]
    expected: Any
    """What an undisturbed run ends with."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def begin(self, folder: Path, variant: str) -> None:
        """Make ready for work in a new folder."""
        self.out, self.variant = folder / "out", variant

    def work(self) -> int:
        """What is killed; it runs in a child."""
        raise NotImplementedError

    def result(self) -> Any:
        """What is in the folder, without what differs from one time to the next."""
        raise NotImplementedError

    def inspect(self, ended: Ended) -> str:
        """After a kill: the moment that it hit, as its files show it.

        Raises:
            Wrong
        """
        raise NotImplementedError

    def judge(self, ended: Ended) -> None:
        """After the command was given again, and ended by itself.

        Raises:
            Wrong
        """
        if ended.status != 0:
            raise Wrong(f"status {ended.status}: {ended.said[-500:]}")
        if not same(self.result(), self.expected):
            raise Wrong("the result is not that of an undisturbed run")
        self.check_left(set())

    def check_left(self, known: set[str]) -> None:
        left = {path.name for path in self.out.parent.rglob("*") if path.is_file()} - known - self.known()
        if left:
            raise Wrong(f"files are left over: {', '.join(sorted(left))}")

    def known(self) -> set[str]:
        """Names of the files that a finished output has."""
        return FINISHED


class Fit(Trial):
    name = "fit"
    variants = ("saves all the time", "saves now and then", "never saves", "over a finished adapter")

    def begin(self, folder: Path, variant: str) -> None:
        super().begin(folder, variant)
        self.over, self.finished = variant == "over a finished adapter", False
        if self.over:
            shutil.copytree(self.place.adapter, self.out)
            self.old = self.result()

    def work(self) -> int:
        seconds = {"never saves": "60", "saves now and then": "0.1"}.get(self.variant, "0")
        more = ["--overwrite"] if self.over else []
        return main(self.place.fit(self.out, f"--checkpoint-seconds={seconds}", *more))

    def result(self) -> Any:
        config, tensors = load_adapter(self.out)
        said = asdict(config) | {"weights_sha256": None}  # of a file whose header has no set order
        said["training"] = {k: v for k, v in said["training"].items() if k not in ("seconds", "settings")}
        return said, tensors

    def inspect(self, ended: Ended) -> str:
        names = {path.name for path in self.out.iterdir()} if self.out.is_dir() else set()
        try:
            found = self.result()
        except AdapterError as error:
            if self.over or self.finished or "was changed" in str(error):
                raise Wrong(f"a finished adapter is lost: {error}") from error
        else:
            self.finished = same(found, self.expected)
            if not self.finished and not (self.over and same(found, self.old)):
                raise Wrong("what was loaded is not an adapter that was finished")
        if CHECKPOINT in names:
            with safe_open(self.out / CHECKPOINT, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118
                    file.get_tensor(name)
        if half_written(self.out):
            return HALF_WRITTEN
        if self.finished:
            return "with the new adapter finished"
        if CHECKPOINT in names:
            return "training, after a checkpoint"
        return "before the first checkpoint" if LOCK in names else "before the output was touched"

    def judge(self, ended: Ended) -> None:
        if self.finished and not self.over:
            if ended.status != 2 or "holds a finished adapter" not in ended.said:
                raise Wrong(f"status {ended.status}: {ended.said[-500:]}")
            ended = Ended(ended.seconds, 0, ended.said)
            (self.out / CHECKPOINT).unlink(missing_ok=True)  # of a finished adapter: of no use, and never in the way
        super().judge(ended)


class Bench(Trial):
    name = "bench"
    variants = ("one process",)

    def begin(self, folder: Path, variant: str) -> None:
        super().begin(folder, variant)
        self.rows: dict[str, Row] = {}

    def work(self) -> int:
        settings = ["epochs=2", "batch_size=4", "rep_dim=8", "checkpoint_seconds=0"]
        what = ["base-to-novel", "--methods", "zero-shot,mmrl", "--seeds", "1,2", "--shots", "4"]
        where = ["--datasets", str(self.place.photos), "--backbone", str(self.place.backbone), "--out", str(self.out)]
        return main(["bench", *what, *where, "--device", "cpu", "--set", *settings])

    def result(self) -> Any:
        rows = read_rows(self.out) if (self.out / ROWS).exists() else []
        found = {f"{row['run']} {row['row']}": {k: v for k, v in row.items() if k not in MEASURED} for row in rows}
        if len(found) != len(rows):
            raise Wrong("a row is there twice")
        return {name: json.dumps(row, sort_keys=True) for name, row in found.items()}

    def inspect(self, ended: Ended) -> str:
        rows = self.result()
        if self.rows.items() - rows.items():
            raise Wrong("a finished run is lost")
        if rows.items() - self.expected.items():
            raise Wrong("a row is not that of an undisturbed run")
        self.rows = rows
        if half_written(self.out):
            return HALF_WRITTEN
        if not rows:
            return "before the first run ended" if self.out.exists() else "before the output was touched"
        return "with all rows there" if len(rows) == len(self.expected) else "with some runs finished"

    def known(self) -> set[str]:
        return {ROWS}


class Predict(Trial):
    """`fewclip predict -o FILE`."""

    name = "predict"
    variants = ("one process", "two processes")

    def begin(self, folder: Path, variant: str) -> None:
        super().begin(folder, variant)
        self.file = self.out / "labels.parquet"
        self.parts: set[str] = set()

    def work(self) -> int:
        more = ["--processes", "2" if self.variant == "two processes" else "1", "--probabilities", "--device", "cpu"]
        status = main(["predict", str(self.place.adapter), str(self.place.many), "-o", str(self.file), *more])
        return 0 if status == 1 else status  # one image can't be read, and is a row that says so

    def result(self) -> Any:
        parquet = import_module("pyarrow.parquet")
        rows = parquet.read_table(self.file).to_pylist()
        found = {row["path"]: json.dumps(row, sort_keys=True) for row in rows}
        if len(found) != len(rows):
            raise Wrong("an image has two rows")
        return found

    def inspect(self, ended: Ended) -> str:
        parts = {path.name for path in self.out.rglob("part-*.parquet") if not path.name.startswith(".")}
        if self.file.exists():
            if not same(self.result(), self.expected):
                raise Wrong("the output is there, but is not that of an undisturbed run")
        elif self.parts - parts:
            raise Wrong("a finished part is lost")
        self.parts = parts
        if half_written(self.out):
            return HALF_WRITTEN
        if self.file.exists():
            return "with the output there"
        return f"with {'some' if parts else 'no'} parts finished"

    def known(self) -> set[str]:
        return {self.file.name, "job.json"}


class Save(Trial):
    """Save after save into one folder, each of other numbers, from one classifier."""

    name = "save"
    variants = ("into one folder",)
    saves = 24

    def begin(self, folder: Path, variant: str) -> None:
        super().begin(folder, variant)
        self.attempt, self.last = 0, 0

    def work(self) -> int:
        classifier = FewShotClassifier.load(self.place.adapter, device="cpu")
        for number in range(1, self.saves + 1):
            value = 1000 * self.attempt + number
            for tensor in classifier.adapter_.method.state_dict().values():
                tensor.fill_(value)
            classifier.adapter_.training = TrainingSummary(images=value)
            try:
                classifier.save(self.out)
            except OutputError as error:
                print(f"fewclip save: {error}", file=sys.stderr)
                return 2
            print(f"saved {value}", flush=True)
        return 0

    def result(self) -> Any:
        config, tensors = load_adapter(self.out)
        values = {float(x) for tensor in tensors.values() for x in tensor.flatten().tolist()}
        if values != {float(config.training.images)}:
            raise Wrong("weights and configuration of two saves")
        return config.training.images % 1000

    def inspect(self, ended: Ended) -> str:
        acknowledged = max(map(int, re.findall(r"saved (\d+)", ended.said)), default=self.last)
        following = acknowledged + 1 if acknowledged // 1000 == self.attempt else 1000 * self.attempt + 1
        try:
            found = 1000 * (load_adapter(self.out)[0].training.images // 1000) + self.result()
        except AdapterError as error:
            if acknowledged or "was changed" in str(error):
                raise Wrong(f"a finished adapter is lost: {error}") from error
            found = 0
        if found not in (acknowledged, following):
            raise Wrong(f"save {acknowledged} was finished, but {found} is loaded")
        self.last, self.attempt = found, self.attempt + 1
        if half_written(self.out):
            return HALF_WRITTEN
        if list(self.out.glob(waiting("*"))):
            return "between the files of one save"
        return (
            "in a save, between its steps" if (self.out / LOCK).exists() else "between two saves, or before the first"
        )


def half_written(folder: Path) -> bool:
    return any(TEMPORARY.fullmatch(path.name) or path.name == "joined" for path in folder.rglob("*"))


def same(a: Any, b: Any) -> bool:
    """Equal, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple):
        return isinstance(b, tuple) and len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


TRIALS = {trial.name: trial for trial in (Fit, Bench, Predict, Save)}
