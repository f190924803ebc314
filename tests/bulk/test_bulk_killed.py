"""Prediction into a file by several processes: none lost or doubled, whoever is killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scaling import IMAGES, adapter, as_parquet, as_tar, make, pq

from fewclip.bulk import Done
from fewclip.bulk.local import Local
from fewclip.bulk.on_ray import Ray
from fewclip.bulk.predictor import DEADLY

__all__ = ["adapter"]
SUICIDAL = """
import os, signal
import PIL.Image

plain = PIL.Image.open

def opened(file, *arguments, **more):
    place = getattr(file, "tell", None)
    if place is not None and file.read(6) == b"DEADLY":
        os.kill(os.getpid(), signal.SIGKILL)
    if place is not None:
        file.seek(0)
    return plain(file, *arguments, **more)

PIL.Image.open = opened
"""


def many(path: Path, count: int) -> Path:
    """A Parquet of `count` images."""
    data = list(IMAGES.values())
    return as_parquet(path, {"image": [data[n % len(data)] for n in range(count)]}, row_group=100)


def paths() -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def command(*arguments: str | Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "fewclip", "predict", *map(str, arguments)],
        env={**os.environ, **paths(), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=heed_interrupts,
    )


def heed_interrupts() -> None:
    """What a shell starts in the background inherits that SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(ready: Callable[[], bool], seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def alive(pid: int) -> bool:
    try:
        return not Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].strip().startswith("Z")
    except OSError:
        return False


def children(pid: int) -> list[int]:
    return [int(n) for task in Path(f"/proc/{pid}/task").glob("*/children") for n in task.read_text().split()]


def same(out: Path, calm: Path) -> bool:
    """Equal rows; probabilities may differ in the last digits where the threads were not as many."""
    one, other = pq.read_table(out), pq.read_table(calm)
    shares = [np.array(t.column("probability").to_pylist(), dtype=float) for t in (one, other)]
    names = ["path", "id", "error", "class"]
    return bool(one.select(names).equals(other.select(names)) and np.abs(shares[0] - shares[1]).max() < 1e-5)


def test_stopped_at_random_and_given_again_has_the_same_rows(adapter: Path, tmp_path: Path) -> None:
    """Ctrl-C, then `kill -9` of the command while it works, against a run that nothing disturbs."""
    source = many(tmp_path / "in.parquet", 3000)
    out, work = tmp_path / "out.parquet", tmp_path / ".out.parquet.fewclip"
    chance = random.Random(3)

    def parts() -> int:
        return sum(1 for _ in work.glob("part-*"))

    for number, status in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        before = parts()
        process = command(adapter, source, "-o", out, "--processes", "1")
        wait_for(lambda before=before, process=process: parts() > before or process.poll() is not None)  # type: ignore[misc]
        time.sleep(0.2 * chance.random())
        workers = children(process.pid)
        process.send_signal(number)
        said = process.communicate()[1].decode().splitlines()
        assert process.returncode == status, said
        assert status < 0 or said[-1] == "fewclip predict: stopped."
        assert workers
        wait_for(lambda workers=workers: not any(map(alive, workers)), 20)  # type: ignore[misc]
    assert parts() >= 2
    assert not out.exists()
    process = command(adapter, source, "-o", out, "--processes", "2")
    assert process.communicate()[1].decode().count("are already done") == 1
    assert process.returncode == 0
    make(adapter, source, tmp_path / "calm.parquet")
    assert pq.read_metadata(out).num_rows == 3000
    assert same(out, tmp_path / "calm.parquet")


def test_the_image_that_ends_its_process_is_found(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(SUICIDAL)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "path"), paths()["PYTHONPATH"]]))
    members = list(IMAGES.items())
    members.insert(5, ("deadly.png", b"DEADLY"))
    done = make(adapter, as_tar(tmp_path / "in.tar", members), tmp_path / "out.parquet", executor=Local(1))
    assert done == Done(rows=len(members), errors=1, before=0, repeated=0)
    errors = pq.read_table(tmp_path / "out.parquet").column("error").to_pylist()
    assert errors == [DEADLY if n == 5 else None for n in range(len(members))]


@pytest.mark.ray
def test_ray_gives_the_same_rows_though_an_actor_is_killed(adapter: Path, tmp_path: Path) -> None:
    ray: Any = pytest.importorskip("ray", reason="Ray is not installed: pip install 'fewclip[ray]'")
    pytest.importorskip("ray.data", reason="Ray Data is not installed: pip install 'fewclip[ray]'")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    source = many(tmp_path / "in.parquet", 3000)
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": paths()}
    )
    killed: list[int] = []

    def actors() -> list[int]:
        found = []
        for place in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if place.read_bytes().startswith(b"ray::MapWorker"):
                    found.append(int(place.parent.name))
            except OSError:
                continue
        return found

    def kill_once(done: int, images: int) -> None:
        if done and not killed:
            killed.extend(actors()[:1])
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    try:
        make(adapter, source, tmp_path / "out.parquet", executor=Ray(actors=1), report=kill_once)
    finally:
        ray.shutdown()
    make(adapter, source, tmp_path / "calm.parquet")
    assert killed
    assert same(tmp_path / "out.parquet", tmp_path / "calm.parquet")
