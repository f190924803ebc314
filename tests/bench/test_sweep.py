"""Sweeps: nothing finished is lost or done twice, whatever stops them; the same rows wherever they run."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_sets import write_set

from fewclip.bench.executors import Local, Ray
from fewclip.bench.rows import MEASURED, ROWS, Row, append_rows, read_rows
from fewclip.bench.run import Run, Where
from fewclip.bench.sweep import Finish, Sweep, execute, sweep
from fewclip.classifier import FewShotClassifier
from fewclip.cli import main
from fewclip.data.read import read_data
from fewclip.errors import DataError, OutputError

SETTINGS = {"epochs": 3, "batch_size": 2, "rep_dim": 8, "checkpoint_seconds": 0.0}


def here(runs: Sequence[Run], where: Where, finish: Finish) -> None:
    """Executes in this process."""
    for run in runs:
        finish(run, execute(run, where))


def plan(photos: Path, backbone: Path, **more: Any) -> list[Run]:
    defaults: dict[str, Any] = {
        "protocols": ("base-to-novel",),
        "methods": ("zero-shot", "mmrl"),
        "datasets": (str(photos),),
        "seeds": (1, 2),
        "shots": (4,),
        "settings": SETTINGS,
        "backbone": str(backbone),
    }
    return Sweep(**(defaults | more)).runs()


def found(rows: list[Row]) -> dict[tuple[str, int], dict[str, Any]]:
    """What the rows say, without what differs from one time to the next."""
    return {(r["run"], r["row"]): {k: v for k, v in r.items() if k not in MEASURED} for r in rows}


# Rows


def some(run: str, *parts: int, rows: int = 2, status: str = "done", value: int = 0) -> list[dict[str, Any]]:
    return [{"run": run, "row": part, "rows": rows, "status": status, "value": value} for part in parts]


def write(path: Path, rows: list[dict[str, Any]], end: str = "") -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + end)
    return path


def test_only_complete_runs_count(tmp_path: Path) -> None:
    rows = some("a", 1, 2) + some("b", 1) + some("c", 1, 2)
    assert [r["run"] for r in read_rows(write(tmp_path / ROWS, rows))] == ["a", "a", "c", "c"]


def test_the_last_of_several_counts_and_success_over_failure(tmp_path: Path) -> None:
    failed = some("a", 1, rows=1, status="failed")
    rows = failed + some("a", 1, 2, value=1) + some("a", 1, 2, value=2) + some("a", 1, value=3) + failed
    assert [(r["row"], r.get("value")) for r in read_rows(write(tmp_path / ROWS, rows))] == [(1, 2), (2, 2)]
    assert read_rows(write(tmp_path / ROWS, failed)) == failed


def test_a_cut_off_line_is_passed_over_and_written_over(tmp_path: Path) -> None:
    path = write(tmp_path / ROWS, some("a", 1, 2), end='{"run": "b", "row"')
    assert len(read_rows(path)) == 2
    append_rows(path, some("c", 1, 2))
    assert [r["run"] for r in read_rows(path)] == ["a", "a", "c", "c"]
    path.write_text('{"run": "b"')
    append_rows(path, some("c", 1, 2))
    assert [r["run"] for r in read_rows(path)] == ["c", "c"]


def test_a_broken_line_in_the_middle_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / ROWS, some("a", 1, 2), end="nonsense\n")
    with path.open("a") as file:
        file.write(json.dumps(some("b", 1)[0]) + "\n")
    with pytest.raises(DataError, match=r"Line 3 of .* is not a result row"):
        read_rows(path)


def test_no_results(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There are no results at"):
        read_rows(tmp_path)


def test_rows_of_other_versions_are_read(tmp_path: Path) -> None:
    """Older rows lack fields, newer ones have more: each is kept as it is."""
    old = some("a", 1, 2)
    new = [{**row, "carbon_grams": 3.5} for row in some("b", 1, 2)]
    path = write(tmp_path / ROWS, [*old, *new])
    append_rows(path, some("c", 1, rows=1))
    assert read_rows(path) == [*old, *new, *some("c", 1, rows=1)]
    committed = Path(__file__).parents[2] / "docs" / "results" / "all-methods" / "icons" / "rows.jsonl"
    assert {row["status"] for row in read_rows(committed)} == {"done"}


FULL_DISK = """
import json, resource, sys
from pathlib import Path
from fewclip.errors import OutputError
from fewclip.bench.rows import append_rows
path = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 40, resource.RLIM_INFINITY))
try:
    append_rows(path, [{"run": "b", "row": 1, "rows": 1, "status": "done", "text": "x" * 500}])
except OutputError as error:
    print(error)
"""


def test_no_room_for_a_row_loses_none(tmp_path: Path) -> None:
    """A limit on the file's size: the system writes a part of the row and refuses the rest, as a full disk does."""
    path = write(tmp_path / ROWS, some("a", 1, 2))
    before = path.read_bytes()
    said = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, env=_env())
    assert said.stdout.startswith("Could not add the rows of b to"), said.stderr
    assert "make room" in said.stdout
    assert path.read_bytes() == before


# Resuming


def test_finished_runs_are_not_repeated(photos: Path, backbone_file: Path, tmp_path: Path) -> None:
    where = Where(out=str(tmp_path / "out"))
    runs = plan(photos, backbone_file)
    first = sweep(runs[:2], where, here)
    done: list[str] = []

    def watched(left: Sequence[Run], where: Where, finish: Finish) -> None:
        done.extend(run.name for run in left)
        here(left, where, finish)

    rows = sweep(runs, where, watched)
    assert done == [run.name for run in runs[2:]]
    assert len(rows) == 8
    assert rows[: len(first)] == first
    assert not list((tmp_path / "out" / "unfinished").glob("*"))


def unfinished(run: Run, backbone: Path, where: Where, **changed: Any) -> Path:
    """The checkpoint that a run of that name would leave if some of its settings were others."""
    path = where.checkpoint(run)
    other = FewShotClassifier(
        run.method,
        str(backbone),
        shots=run.shots,
        **{"seed": run.seed, **run.settings, "checkpoint_seconds": 0.0, **changed},
    )
    data = read_data(run.source)
    other.fit(data.only(data.halves()[0]), checkpoint=path)
    assert path.exists()
    return path


def test_a_checkpoint_of_other_settings_is_trained_anew_and_said(
    photos: Path, backbone_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after an upgrade that changes a default, or a change in the folder."""
    runs = plan(photos, backbone_file, methods=("mmrl",))
    expected = sweep(runs, Where(out=str(tmp_path / "calm")), here)
    where = Where(out=str(tmp_path / "out"))
    unfinished(runs[0], backbone_file, where, epochs=2)
    capsys.readouterr()
    rows = sweep(runs, where, here, quiet=True)
    assert found(rows) == found(expected)
    note = (
        "trained from the start, because its checkpoint belongs to an unfinished run that differs in training settings"
    )
    assert [row["note"] for row in rows] == [note, note, None, None]
    assert capsys.readouterr().err == f"{runs[0].name}: {note}.\n"
    assert not list(Path(where.out, "unfinished").iterdir())


@pytest.mark.parametrize("damage", ["nonsense", "empty", "no tensors", "other tensors"])
def test_a_damaged_checkpoint_is_trained_anew(damage: str, photos: Path, backbone_file: Path, tmp_path: Path) -> None:
    runs = plan(photos, backbone_file, methods=("mmrl",), seeds=(1,))
    expected = sweep(runs, Where(out=str(tmp_path / "calm")), here)
    where = Where(out=str(tmp_path / "out"))
    path = unfinished(runs[0], backbone_file, where)
    with safe_open(path, framework="pt") as file:
        meta, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    path.unlink()
    if damage in ("nonsense", "empty"):
        path.write_bytes(b"nonsense" if damage == "nonsense" else b"")
    elif damage == "no tensors":
        save_file({"x": next(iter(tensors.values()))}, path, {})
    else:  # of a version that kept one tensor under another shape
        name = next(name for name in tensors if name.startswith("method."))
        save_file(tensors | {name: tensors[name][:1].clone()}, path, meta)
    rows = sweep(runs, where, here, quiet=True)
    assert found(rows) == found(expected)
    assert all(str(row["note"]).startswith("trained from the start") for row in rows)


def test_a_checkpoint_that_can_be_used_is_resumed_without_a_note(
    photos: Path, backbone_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = plan(photos, backbone_file, methods=("mmrl",), seeds=(1,))
    where = Where(out=str(tmp_path / "out"))
    unfinished(runs[0], backbone_file, where)
    rows = sweep(runs, where, here, quiet=True)
    assert {row["note"] for row in rows} == {None}
    assert capsys.readouterr().err == ""


def test_a_failed_run_leaves_the_others_and_is_tried_again(photos: Path, backbone_file: Path, tmp_path: Path) -> None:
    where = Where(out=str(tmp_path / "out"))
    runs = plan(photos, backbone_file, shots=(4, 9), seeds=(1,), methods=("mmrl",))
    rows = sweep(runs, where, here)
    assert sorted(row["status"] for row in rows) == ["done", "done", "failed"]
    for i in range(8, 12):  # the images that were missing
        for colour in photos.iterdir():
            (colour / f"{i}.png").write_bytes((colour / "0.png").read_bytes())
    from fewclip.bench.run import read

    read.cache_clear()
    tried: list[int | None] = []

    def watched(left: Sequence[Run], where: Where, finish: Finish) -> None:
        tried.extend(run.shots for run in left)
        here(left, where, finish)

    rows = sweep(runs, where, watched)
    assert tried == [9]
    assert {row["status"] for row in rows} == {"done"}


def test_a_second_sweep_in_the_same_folder_is_refused(photos: Path, backbone_file: Path, tmp_path: Path) -> None:
    where = Where(out=str(tmp_path / "out"))
    runs = plan(photos, backbone_file)

    def inner(left: Sequence[Run], where: Where, finish: Finish) -> None:
        code = f"from fewclip.bench.run import Where; from fewclip.bench.sweep import sweep; sweep([], Where(out={where.out!r}), None)"
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=_env())
        assert "Another process is writing to" in said.stderr

    sweep(runs, where, inner)


def test_bad_data_is_found_before_anything_is_trained(photos: Path, backbone_file: Path, tmp_path: Path) -> None:
    runs = plan(photos, backbone_file, datasets=(str(photos), str(tmp_path / "nowhere")))
    with pytest.raises(DataError, match="nowhere"):
        sweep(runs, Where(out=str(tmp_path / "out")), here)
    assert not (tmp_path / "out" / ROWS).exists()


def test_an_output_folder_that_is_a_file(photos: Path, backbone_file: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match="can't be used"):
        sweep(plan(photos, backbone_file), Where(out=str(tmp_path / "out")), here)


# Processes of this machine


def test_several_processes_give_the_same_rows(photos: Path, backbone_file: Path, tmp_path: Path) -> None:
    runs = plan(photos, backbone_file)
    alone = sweep(runs, Where(out=str(tmp_path / "a")), here)
    together = sweep(runs, Where(out=str(tmp_path / "b")), Local(2))
    assert found(together) == found(alone)


def test_a_worker_that_is_killed_is_replaced(photos: Path, backbone_file: Path, tmp_path: Path) -> None:
    runs = plan(photos, backbone_file, methods=("mmrl",), settings=SETTINGS | {"epochs": 12})
    where = Where(out=str(tmp_path / "b"))

    def kill() -> None:
        _wait_for(lambda: where.checkpoint(runs[0]).exists())
        for child in active_children():
            os.kill(child.pid or 0, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    rows = sweep(runs, where, Local(1))
    killer.join()
    assert found(rows) == found(sweep(runs, Where(out=str(tmp_path / "a")), here))


def test_a_run_whose_workers_die_again_and_again_fails_alone(photos: Path, backbone_file: Path, tmp_path: Path) -> None:
    runs = plan(photos, backbone_file, methods=("mmrl",), settings=SETTINGS | {"epochs": 100_000}, seeds=(1,))
    runs += plan(photos, backbone_file, methods=("zero-shot",), seeds=(1,), settings={})
    stop = threading.Event()

    def kill() -> None:
        checkpoint = Where(out=str(tmp_path)).checkpoint(runs[0])
        while not stop.is_set():
            _wait_for(lambda: checkpoint.exists() or stop.is_set())
            for child in active_children():
                os.kill(child.pid or 0, signal.SIGKILL)
            time.sleep(0.5)

    killer = threading.Thread(target=kill)
    killer.start()

    def until_mmrl_failed(run: Run, rows: list[Row]) -> None:
        if rows[0]["status"] == "failed":
            stop.set()

    def executor(left: Sequence[Run], where: Where, finish: Finish) -> None:
        def both(run: Run, rows: list[Row]) -> None:
            until_mmrl_failed(run, rows)
            finish(run, rows)

        Local(1)(left, where, both)

    rows = sweep(runs, Where(out=str(tmp_path)), executor)
    killer.join()
    status = {row["method"]: row["status"] for row in rows}
    assert status == {"mmrl": "failed", "zero-shot": "done"}
    assert "its process died 2 times" in next(str(row["error"]) for row in rows if row["method"] == "mmrl")


def test_killed_at_random_and_resumed_gives_the_same_rows(photos: Path, backbone_file: Path, tmp_path: Path) -> None:
    """`kill -9` of the command, again and again, against a run that nothing disturbs."""
    arguments = ["bench", "open", "--methods", "zero-shot,mmrl,mmrlpp", "--datasets", str(photos)]
    arguments += ["--backbone", str(backbone_file), "--seeds", "1,2", "--shots", "4"]
    arguments += ["--set", "epochs=5", "batch_size=2", "rep_dim=8", "checkpoint_seconds=0.05"]
    disturbed, calm = tmp_path / "disturbed", tmp_path / "calm"
    chance = random.Random(4)
    kills = 0
    for _ in range(40):
        process = subprocess.Popen(
            [sys.executable, "-m", "fewclip", *arguments, "--out", str(disturbed)],
            env=_env(),
            stderr=subprocess.DEVNULL,
        )
        try:
            status = process.wait(timeout=None if kills >= 3 else 3 + 5 * chance.random())
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    assert status == 0
    assert kills >= 1
    assert main([*arguments, "--out", str(calm)]) == 0
    assert found(read_rows(disturbed)) == found(read_rows(calm))
    assert len(read_rows(calm)) == 3 * 2 * 2


# Ray


@pytest.mark.ray
def test_ray_gives_the_same_rows_though_a_worker_is_killed(photos: Path, backbone_file: Path, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'fewclip[ray]'")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    runs = plan(photos, backbone_file, methods=("mmrl",), settings=SETTINGS | {"epochs": 12})
    where = Where(out=str(tmp_path / "b"))
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": _paths()}
    )
    killed: list[int] = []

    def kill() -> None:
        _wait_for(lambda: where.checkpoint(runs[0]).exists())
        killed.extend(_processes("ray::_on_worker")[:1])
        for pid in killed:
            os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        rows = sweep(runs, where, Ray())
    finally:
        killer.join()
        ray.shutdown()
    assert killed
    assert found(rows) == found(sweep(runs, Where(out=str(tmp_path / "a")), here))


@pytest.mark.ray
def test_no_ray_cluster_gives_a_sentence(
    photos: Path, backbone_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'fewclip[ray]'")
    arguments = ["bench", "few-shot", "--datasets", str(photos), "--shots", "2", "--backbone", str(backbone_file)]
    status = main([*arguments, "--out", str(tmp_path / "o"), "--executor", "ray", "--ray-address", "127.0.0.1:1"])
    assert status == 2
    assert "No Ray cluster answers at '127.0.0.1:1'" in capsys.readouterr().err


# The command


def test_the_command_lists_without_running(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "few-shot", "--datasets", "icons", "--dry-run", "--out", str(tmp_path / "o")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3 * 5 * 3
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["few-shot", "--datasets", "icons", "--seeds", "1,x"], "--seeds is '1,x'"),
        (["few-shot", "--datasets", "icons", "--shots", "0"], "--shots is '0'"),
        (["few-shot", "--datasets", "icons", "--set", "epochs"], "--set has 'epochs'"),
        (["few-shot", "--datasets", "icons", "--set", "epoch=3"], "has a setting 'epoch' (did you mean 'epochs'?)"),
        (["few-shot", "--datasets", "icons", "--set", "epochs=true"], "epochs is True, but it must be"),
        (
            ["few-shot", "--datasets", "icons", "--methods", "mmrl", "--set", "alpha=much"],
            "alpha is 'much', but it must be",
        ),
        (
            ["few-shot", "--datasets", "icons", "--methods", "proda", "--set", "pool=2"],
            "prompt_batch is 4, but the pool has only 2",
        ),
        (["few-shot", "--datasets", "icons", "--seeds", str(2**63)], f"seed is {2**63}, but it must be"),
        (["few-shot", "--datasets", "icons", "--template", "cat"], "The template 'cat' should hold {} once"),
        (["few-shot", "--datasets", "icons", "--seeds", ","], "seeds is empty"),
        (["few-shot", "--datasets", "icons", "--methods", ","], "methods is empty"),
        (["", "--datasets", "icons"], "protocols is empty"),
        (["shots", "--datasets", "icons"], "There is no protocol 'shots'"),
        (["few-shot", "--datasets", "icons", "--processes", "0"], "processes is 0"),
        (["base-to-novel", "--datasets", "caltech101", "--root", "nowhere"], "nowhere"),
        (["base-to-novel", "--datasets", "nothing-there"], "nothing-there"),
    ],
)
def test_mistakes(arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *arguments, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert "Traceback" not in said


def test_data_that_is_not_whole_stops_a_sweep_and_loses_no_row(
    photos: Path, backbone_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["bench", "few-shot", "--methods", "zero-shot", "--backbone", str(backbone_file), "--seeds", "1"]
    command += ["--shots", "2", "--out", str(out), "--root", str(tmp_path)]
    assert main([*command, "--datasets", "photos"]) == 0
    kept = (out / ROWS).read_bytes()
    folder = write_set(tmp_path, "dtd")
    next(folder.rglob("banded_*.jpg")).unlink()
    for copy in ("same name", "same_name"):
        (tmp_path / "twice" / copy).mkdir(parents=True)
        (tmp_path / "twice" / copy / "1.png").write_bytes((photos / "red" / "0.png").read_bytes())
    capsys.readouterr()
    for name, sentence in (("dtd", "banded"), ("twice", "both stand for the class 'same name'"), ("sun397", "sun397")):
        assert main([*command, "--datasets", f"photos,{name}"]) == 2
        said = capsys.readouterr().err
        assert sentence in said
        assert "Traceback" not in said
        assert (out / ROWS).read_bytes() == kept


def test_an_image_that_can_not_be_read_fails_its_run_alone(photos: Path, backbone_file: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(photos, broken)
    (broken / "red" / "3.png").write_bytes(b"no image")
    runs = plan(photos, backbone_file, datasets=(str(broken), str(photos)), methods=("mmrl",), seeds=(1,))
    rows = sweep(runs, Where(out=str(tmp_path / "out")), here)
    status = {row["source"]: row["status"] for row in rows}
    assert status == {str(broken): "failed", str(photos): "done"}
    assert "3.png" in next(str(row["error"]) for row in rows if row["status"] == "failed")


def test_status_1_and_the_reason_when_a_run_fails(
    photos: Path, backbone_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "bench",
        "few-shot",
        "--methods",
        "zero-shot",
        "--datasets",
        str(photos),
        "--backbone",
        str(backbone_file),
    ]
    assert main([*arguments, "--seeds", "1", "--shots", "4,9", "--out", str(tmp_path), "--json"]) == 1
    said = capsys.readouterr()
    assert "8 training images, but 9 shots" in said.err
    assert [json.loads(line)["status"] for line in said.out.splitlines()] == ["done", "failed"]


def _paths() -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def _env() -> dict[str, str]:
    return {**os.environ, **_paths(), "OMP_NUM_THREADS": "1"}


def _wait_for(ready: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def _processes(title: str) -> list[int]:
    """Process ids by what their command line begins with."""
    pids = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if place.read_bytes().startswith(title.encode()):
                pids.append(int(place.parent.name))
        except OSError:
            continue
    return pids
