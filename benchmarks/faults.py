"""Kill fit, bench, predict and save at random moments, fill their disk, lock them out, and let two write to one place.

    python benchmarks/faults.py --times 100 --json rows.json       (make faults)

Each is started in a new folder, killed (SIGKILL, with all its processes) at a moment drawn evenly over the time that it takes
undisturbed, inspected, started again and perhaps killed again, and at last left alone. Nothing finished may be lost, nothing
half-written may be read, and the end must be that of an undisturbed run, weights bit for bit. Exit status 1 if anything is
wrong.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: its threads don't survive a fork
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import common
import torch
from fault_place import Place
from killing import Ended, adopt_orphans, end, run, start
from trials import TRIALS, Trial, Wrong

Row = dict[str, Any]
SECTIONS = ("kills", "full disk", "no rights", "two writers")
NOBODY = 65534
SEPARATOR = "-- now without rights --"
NEW_MOUNTS, NEW_USER, PRIVATE = 0x20000, 0x10000000, 0x44000


class Table:
    """What was tried, printed as it ends."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def add(self, section: str, command: str, **found: Any) -> None:
        self.rows.append({"section": section, "command": command, **found})
        print(f"{section}, {command}: " + ", ".join(f"{k} {v}" for k, v in found.items()), flush=True)


def folders(root: Path) -> Iterator[Path]:
    """New folders, each deleted when the next is asked for."""
    while True:
        folder = Path(tempfile.mkdtemp(dir=root))
        yield folder
        shutil.rmtree(folder)


def calm(trial: Trial, root: Path) -> dict[str, float]:
    """Seconds that each variant takes undisturbed; the first also gives what all must end with."""
    seconds: dict[str, float] = {}
    for variant in dict.fromkeys(trial.variants):
        folder = Path(tempfile.mkdtemp(dir=root))
        trial.begin(folder, variant)
        ended = run(trial.work, root / "log")
        if ended.status != 0:
            raise SystemExit(f"{trial.name} does not work undisturbed: {ended.said}")
        if not hasattr(trial, "expected"):
            trial.expected = trial.result()
        trial.judge(ended)
        shutil.rmtree(folder)
        seconds[variant] = round(ended.seconds, 2)
    return seconds


def kills(trial: Trial, times: int, chance: random.Random, root: Path, seconds: dict[str, float]) -> Row:
    """Kill, inspect and start again until there were `times` kills."""
    phases: Counter[str] = Counter()
    wrong: list[str] = []
    done = cycles = 0
    for folder in folders(root):
        cycles += 1
        variant = chance.choice(trial.variants)
        trial.begin(folder, variant)
        try:
            ended = None
            while done < times and (ended is None or chance.random() < 0.5):
                ended = run(trial.work, root / "log", chance.uniform(0, seconds[variant]))
                if ended.status is not None:  # it was faster than when it was timed
                    break
                done += 1
                phases[trial.inspect(ended)] += 1
            trial.judge(ended if ended and ended.status is not None else run(trial.work, root / "log"))
        except (Wrong, TimeoutError) as error:
            wrong.append(f"{variant}: {error}")
            print(f"WRONG: {trial.name}, {wrong[-1]}", flush=True)
        if cycles % 5 == 0:
            print(f"{trial.name}: {done} kills, {dict(phases)}", flush=True)
        if done >= times:
            break
    shutil.rmtree(folder)
    return {"kills": done, "folders": cycles, "wrong": wrong, "phases": dict(phases.most_common()), "seconds": seconds}


def one_sentence(ended: Ended) -> bool:
    """Whether it reported the mistake as the command line does."""
    lines = [line for line in ended.said.splitlines() if line.startswith("fewclip ")]
    return ended.status == 2 and len(lines) == 1 and "Traceback" not in ended.said


def full_disk(trial: Trial, times: int, chance: random.Random, disk: Path) -> Row:
    """Run with less and less room, then with enough. `disk` is a small file system of its own."""
    variant = trial.variants[0]
    ballast, log = disk / "ballast", disk.parent / "log"
    trial.begin(disk, variant)
    run(trial.work, log)
    used = sum(path.stat().st_blocks * 512 for path in disk.rglob("*") if path.is_file())
    wrong: list[str] = []
    ends: Counter[str] = Counter()
    for _ in range(times):
        for path in disk.iterdir():
            path.unlink() if path.is_file() else shutil.rmtree(path)
        trial.begin(disk, variant)
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        ballast.write_bytes(bytes(max(0, free - int(chance.uniform(0, 1.5 * used)))))
        ended = run(trial.work, log)
        ends["refused in one sentence" if one_sentence(ended) else f"ended with {ended.status}"] += 1
        ballast.unlink()
        try:
            if ended.status != 0 and not one_sentence(ended):
                raise Wrong(f"status {ended.status}: {ended.said[-1500:]}")
            trial.inspect(ended)
            trial.judge(ended if ended.status == 0 else run(trial.work, log))
        except (Wrong, TimeoutError) as error:
            wrong.append(str(error))
    return {"times": times, "wrong": wrong, "ends": dict(ends)}


def on_small_disk(work: Callable[[Path], Row], root: Path) -> Row:
    """The row that `work` makes on a file system of a few megabytes, which only a child of this process sees."""
    answer, disk = root / "answer", root / "disk"
    disk.mkdir(exist_ok=True)
    child = os.fork()
    if child == 0:
        try:
            adopt_orphans()
            refused = mount(disk)
            answer.write_text(json.dumps({"skipped": refused} if refused else work(disk)))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    found: Row = json.loads(answer.read_text())
    answer.unlink()
    return found


def mount(disk: Path) -> str | None:
    """Make `disk` a small file system, for this process and its children. Returns why that is not possible, or None."""
    libc, user = ctypes.CDLL(None, use_errno=True), os.getuid()
    if libc.unshare(NEW_MOUNTS | (NEW_USER if user else 0)):
        return f"no mounts of its own: {os.strerror(ctypes.get_errno())}"
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    if libc.mount(None, b"/", None, PRIVATE, None) or libc.mount(b"tmpfs", bytes(disk), b"tmpfs", 0, b"size=16m"):
        return f"no small file system: {os.strerror(ctypes.get_errno())}"
    return None


def no_rights(trial: Trial, root: Path) -> Row:
    """A folder that the user may not write to, and a path below a file."""
    ends: dict[str, str] = {}
    wrong = []
    for kind in ("a folder of another", "a path below a file"):
        folder = Path(tempfile.mkdtemp(dir=root))
        folder.chmod(0o555)
        place = folder / "sub"
        if kind == "a path below a file":
            place = root / f"file {trial.name}" / "sub"
            place.parent.write_text("")

        rehearsal = Path(tempfile.mkdtemp(dir=root))

        def work(place: Path = place, rehearsal: Path = rehearsal) -> int:
            # Once with all rights, so that what is imported on the way (which another user may not be allowed to read) is
            # there, and what is tried is the command's own work.
            trial.begin(rehearsal, trial.variants[0])
            if status := trial.work():
                return status
            print(SEPARATOR, flush=True)
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            trial.begin(place, trial.variants[0])
            return trial.work()

        ended = run(work, root / "log")
        shutil.rmtree(rehearsal)
        rehearsed, separator, said = ended.said.partition(SEPARATOR)
        if not separator:
            raise SystemExit(f"{trial.name} does not work with all rights: {rehearsed}")
        ended = replace(ended, said=said)
        ends[kind] = "refused in one sentence" if one_sentence(ended) else f"status {ended.status}"
        if not one_sentence(ended):
            wrong.append(f"{kind}: status {ended.status}: {ended.said[-1500:]}")
    return {"ends": ends, "wrong": wrong}


def two_writers(trial: Trial, times: int, chance: random.Random, root: Path, seconds: dict[str, float]) -> Row:
    """The same command twice, the second at a random moment of the first."""
    ends: Counter[str] = Counter()
    wrong: list[str] = []
    for _, folder in zip(range(times), folders(root), strict=False):
        variant = chance.choice(trial.variants)
        trial.begin(folder, variant)
        began, logs = time.monotonic(), (root / "log", root / "log2")
        first = start(trial.work, logs[0])
        time.sleep(chance.uniform(0, 0.8 * seconds[variant]))
        second = start(trial.work, logs[1])
        both = [end(first, logs[0], began), end(second, logs[1], began)]
        done = sum(ended.status == 0 for ended in both)
        refused = sum(one_sentence(ended) for ended in both)
        ends["both done" if done == 2 else f"{done} done, {refused} refused in one sentence"] += 1
        try:
            if done + refused != 2 or not done:
                raise Wrong(" / ".join(f"status {ended.status}: {ended.said[-700:]}" for ended in both))
            trial.judge(Ended(0, 0, ""))
        except Wrong as error:
            wrong.append(str(error))
    return {"pairs": times, "wrong": wrong, "ends": dict(ends)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=100, help="kills of each command; a fifth of the other faults")
    parser.add_argument("--only", default=",".join(TRIALS), help="commands: " + ", ".join(TRIALS))
    parser.add_argument("--sections", default=",".join(SECTIONS), help="; ".join(SECTIONS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the rows there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    adopt_orphans()
    chance, table, others = random.Random(options.seed), Table(), max(1, options.times // 5)
    sections = options.sections.split(",")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        root.chmod(0o755)
        place = Place(root)
        prepared = run(place.prepare, root / "log")
        if prepared.status != 0:
            raise SystemExit(prepared.said)
        place.warm()
        for name in options.only.split(","):
            if name == "predict" and find_spec("fewclip.bulk") is None:
                table.add("all", name, skipped="this fewclip has no `predict -o`")
                continue
            trial = TRIALS[name](place)
            seconds = calm(trial, root)
            if "kills" in sections:
                table.add("kills", name, **kills(trial, options.times, chance, root, seconds))
            if "full disk" in sections:
                table.add("full disk", name, **on_small_disk(partial(full_disk, trial, others, chance), root))
            if "no rights" in sections:
                table.add("no rights", name, **no_rights(trial, root))
            if "two writers" in sections:
                table.add("two writers", name, **two_writers(trial, others, chance, root, seconds))
            if options.json is not None:
                common.write(options.json, common.machine(torch.device("cpu")) | {"command": sys.argv[1:]}, table.rows)
    wrong = sum(len(row.get("wrong", ())) for row in table.rows)
    print(f"{sum(row.get('kills', 0) for row in table.rows)} kills, {wrong} times wrong")
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
