"""Deaths, full disks and second writers at every single file operation; benchmarks/faults.py kills real processes at random."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from faulty import Death, Faulty
from safetensors.torch import load_file
from torch import Tensor

from fewclip.adapter import CARD, CONFIG, WEIGHTS, AdapterConfig, load_adapter, save_adapter
from fewclip.cli import main
from fewclip.cli.fit import CHECKPOINT
from fewclip.clip.model import CLIP
from fewclip.errors import AdapterError, OutputError
from fewclip.files import write_bytes, write_files
from fewclip.outputs import LOCK, only_writer
from fewclip.picture import Sample, sheet
from fewclip.rows import MEASURED, ROWS, Row, append_rows, read_rows
from fewclip.runs import Run, Where, execute
from fewclip.sweep import Finish, Sweep, sweep

FINISHED = {WEIGHTS, CONFIG, CARD}
DEATHS = ("death", "torn")
ERRORS = ("full", errno.ENOSPC, errno.EIO, errno.EROFS)


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine lives on in every test here, so what was written is there."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def attempts(folder: Path, work: Callable[[], object], faults: Sequence[str | int]) -> Iterator[tuple[Faulty, str]]:
    """`work` with each fault at each of its file operations, and how it ended: died, refused, or done all the same.

    Yields after each attempt, for the folder to be looked at and made anew.
    """
    for fault in faults:
        number = 0
        while True:
            with Faulty(folder, number, fault) as faulty:
                try:
                    work()
                    end = "done"
                except Death:
                    end = "died"
                except OutputError:
                    end = "refused"
            yield faulty, end
            if not faulty.happened:
                assert number > 5
                break
            number += 1


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


# Single files


def test_bytes_are_on_the_disk_before_their_name_and_the_name_before_the_end(tmp_path: Path) -> None:
    with Faulty(tmp_path) as disk:
        write_files({tmp_path / "new" / "a": b"1", tmp_path / "new" / "b": b"2"})
    log = [(name, "temporary" if path.endswith(".tmp") else Path(path).name) for name, path in disk.log]
    one = [("open", "temporary"), ("write", "temporary"), ("fsync", "temporary")]
    assert log[:2] == [("mkdir", "new"), ("fsync", tmp_path.name)]
    assert log[2:12] == [
        *one,
        *one,
        ("replace", "temporary"),
        ("fsync", "new"),
        ("replace", "temporary"),
        ("fsync", "new"),
    ]
    with Faulty(tmp_path) as disk:
        append_rows(tmp_path / "new" / ROWS, some("a"))
    assert [name for name, _ in disk.log] == ["open", "ftruncate", "pwrite", "fsync", "fsync"]


def test_files_are_whole_or_as_before(tmp_path: Path) -> None:
    path = tmp_path / "out" / "a.txt"

    def work() -> None:
        write_bytes(path, b"new" * 100)

    for before in (None, b"old"):
        if before:
            write_bytes(path, before)
        for faulty, end in attempts(tmp_path, work, [*DEATHS, *ERRORS]):
            found = path.read_bytes() if path.exists() else None
            assert found in (before, b"new" * 100)
            assert found is not before or end != "done"
            if end != "died" and faulty.log[-1][0] != "unlink":
                assert names(path.parent) <= {"a.txt"}
            work()
            assert names(path.parent) == {"a.txt"}, "what a death left is cleared by the next"
            path.unlink() if before is None else path.write_bytes(before)


def test_a_living_writers_temporary_is_not_cleared(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    done: list[bool] = []
    real = os.replace

    def between(old: Any, new: Any) -> None:
        if not done:
            done.append(True)
            thread = threading.Thread(target=write_bytes, args=(path, b"second"))
            thread.start()
            thread.join()
            assert path.read_bytes() == b"second"
        real(old, new)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "replace", between)
        write_bytes(path, b"first")
    assert path.read_bytes() == b"first"
    assert names(tmp_path) == {"a.txt"}


def test_a_sheet_of_pictures_is_whole_or_absent(tmp_path: Path, pairs: list[Any]) -> None:
    rows = [("heading", [Sample(image, name, [("mmrl", name)]) for image, name in pairs[:2]])]
    for _, end in attempts(tmp_path, lambda: sheet("title", rows, tmp_path / "sheet.png"), ["torn", "full"]):
        assert (end == "done") <= (tmp_path / "sheet.png").exists()
        if (tmp_path / "sheet.png").exists():
            assert (tmp_path / "sheet.png").read_bytes().endswith(b"IEND\xaeB`\x82")
            (tmp_path / "sheet.png").unlink()


def test_what_replaces_several_files_has_a_finish(tmp_path: Path) -> None:
    """As of an export: where its description is, all files are of one time."""
    graph, about = tmp_path / "model.onnx", tmp_path / "model.json"

    def save(text: bytes) -> None:
        write_files({graph: text, about: text}, finish=about)

    save(b"old")
    for _, end in attempts(tmp_path, lambda: save(b"new"), [*DEATHS, *ERRORS]):
        if about.exists():
            assert graph.read_bytes() == about.read_bytes()
        else:
            assert end != "done"
        save(b"old")


# Adapters


def adapter(value: float) -> tuple[AdapterConfig, dict[str, Tensor]]:
    config = AdapterConfig("mmrl", {}, "tiny", "f" * 64, ["a", "b"], [], "a photo of a {}.", {"value": value})
    return config, {"weight": torch.full((4, 8), value)}


def save(folder: Path, value: float) -> None:
    save_adapter(folder, *adapter(value))


def saved(folder: Path) -> float | None:
    """Which adapter the folder holds; None if it says that it holds none."""
    try:
        config, tensors = load_adapter(folder)
    except AdapterError as error:
        if "truncated or was changed" in str(error):
            raise
        return None
    value = float(tensors["weight"][0, 0])
    assert torch.equal(tensors["weight"], torch.full((4, 8), value))
    assert config.training == {"value": value}, "weights and configuration of one save"
    return value


def test_a_first_save(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    for faulty, end in attempts(tmp_path, lambda: save(folder, 1), [*DEATHS, *ERRORS]):
        found = saved(folder)
        assert found == 1 if end == "done" else found in (None, 1)
        if end == "refused" and faulty.log[-1][0] != "unlink":
            assert names(folder) in (set(), {WEIGHTS}, {WEIGHTS, CARD}, FINISHED)
        save(folder, 2)
        assert saved(folder) == 2
        assert names(folder) == FINISHED
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def test_a_save_over_a_finished_adapter_never_loses_both(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    save(folder, 1)
    for _, end in attempts(tmp_path, lambda: save(folder, 2), [*DEATHS, *ERRORS]):
        found = saved(folder)
        assert found == 2 if end == "done" else found in (1, 2)
        save(folder, 1)
        assert saved(folder) == 1
        assert names(folder) == FINISHED


def test_a_death_after_a_death_loses_nothing(tmp_path: Path) -> None:
    """Every pair of moments: what the first death left doesn't mislead the second save."""
    folder = tmp_path / "a"
    save(folder, 1)
    with Faulty(tmp_path) as undisturbed:
        save(folder, 1)
    for first in range(len(undisturbed.log)):
        for second in range(first % 3, len(undisturbed.log), 3):
            kept = saved(folder)
            for value, moment in ((2.0, first), (3.0, second)):
                with Faulty(tmp_path, moment), suppress(Death):
                    save(folder, value)
                found = saved(folder)
                assert found in (kept, value)
                kept = found
            save(folder, 1)
            assert names(folder) == FINISHED


def test_two_threads_save_while_a_third_loads(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    save(folder, 1)
    stop = threading.Event()
    wrong: list[BaseException] = []

    def often(work: Callable[[], object]) -> None:
        try:
            while not stop.is_set():
                work()
        except BaseException as error:
            wrong.append(error)

    loads: list[float | None] = []
    works = [lambda: save(folder, 1), lambda: save(folder, 2), lambda: loads.append(saved(folder))]
    threads = [threading.Thread(target=often, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    stop.wait(1.5)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert set(loads) <= {1.0, 2.0}
    assert len(loads) > 5
    assert names(folder) == FINISHED


# A second writer

HOLDER = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(descriptor, fcntl.LOCK_EX)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Path]:
    """A folder that another process is writing to."""
    folder = tmp_path / "out"
    folder.mkdir()
    command = [sys.executable, "-c", HOLDER, str(folder / LOCK)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield folder
        process.kill()


def test_the_second_is_refused_in_one_sentence(
    held: Path, photos: Path, backbone_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fewclip.adapter.PATIENCE", 0.1)
    sentence = f"Another process is writing to {held}"
    assert main(fit_command(photos, backbone_file, held)) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert len(said.strip().splitlines()) == 1
    bench = ["bench", "few-shot", "--methods", "zero-shot", "--datasets", str(photos), "--shots", "1", "--seeds", "1"]
    assert main([*bench, "--backbone", str(backbone_file), "--out", str(held)]) == 2
    assert sentence in capsys.readouterr().err
    with pytest.raises(OutputError, match="Another process is writing to"):
        save(held, 1)
    assert names(held) == {LOCK}


def test_a_lock_ends_with_its_process(held: Path, tmp_path: Path) -> None:
    (tmp_path / "left" / LOCK).mkdir(parents=True)
    (tmp_path / "left" / LOCK).rmdir()
    (tmp_path / "left" / LOCK).write_bytes(b"")  # of a writer that was killed
    with only_writer(tmp_path / "left"), only_writer(tmp_path / "left"):
        pass
    assert names(tmp_path / "left") == set()
    with pytest.raises(OutputError), only_writer(held):
        pass


@pytest.mark.parametrize("place", ["below a file", "no rights"])
def test_a_place_that_cant_be_written_to(
    place: str, tmp_path: Path, photos: Path, backbone_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if place == "below a file":
        (tmp_path / "file").write_text("")
        out = tmp_path / "file" / "out"
    else:
        out = tmp_path / "out"
        out.mkdir(mode=0o500)
        if os.access(out, os.W_OK):
            pytest.skip("this user may write anywhere; benchmarks/faults.py tries it as another")
    assert main(fit_command(photos, backbone_file, out)) == 2
    assert "can't be used" in capsys.readouterr().err
    bench = ["bench", "few-shot", "--methods", "zero-shot", "--datasets", str(photos), "--shots", "1", "--seeds", "1"]
    assert main([*bench, "--backbone", str(backbone_file), "--out", str(out)]) == 2
    assert "can't be used" in capsys.readouterr().err
    with pytest.raises(OutputError, match="can't be used"):
        save(out, 1)


# fit


def fit_command(photos: Path, backbone: Path, out: Path, *more: str) -> list[str]:
    settings = "--epochs=1 --shots=2 --batch-size=4 --rep-dim=8 --device=cpu --json --checkpoint-seconds=0".split()  # noqa: SIM905
    return ["fit", str(photos), "-o", str(out), "--backbone", str(backbone), *settings, *more]


@pytest.fixture
def kept_backbone(backbone: CLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read once, so that a fit takes a tenth of a second."""
    monkeypatch.setattr(CLIP, "from_pretrained", lambda name: backbone)


@pytest.mark.usefixtures("kept_backbone")
@pytest.mark.parametrize("fault", ["death", "full"])
def test_fit_goes_on_to_the_undisturbed_end(
    fault: str, tmp_path: Path, photos: Path, backbone_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(fit_command(photos, backbone_file, tmp_path / "calm")) == 0
    expected = load_file(tmp_path / "calm" / WEIGHTS)
    number, happened = 0, True
    while happened:
        out = tmp_path / "out" / str(number)
        status = None
        capsys.readouterr()
        with Faulty(tmp_path / "out", number, fault) as faulty, suppress(Death):
            status = main(fit_command(photos, backbone_file, out))
        happened = faulty.happened
        said = capsys.readouterr().err
        if status == 2:
            assert len(said.strip().splitlines()) == 1, said
            assert "No space left" in said
        finished = (out / CONFIG).exists()
        if finished:
            assert same(load_adapter(out)[1], expected)
        else:
            assert status in (None, 2)
            with pytest.raises(AdapterError, match=r"no finished adapter|no adapter folder"):
                load_adapter(out)
        again = main(fit_command(photos, backbone_file, out))
        assert again == (2 if finished else 0)
        assert same(load_adapter(out)[1], expected)
        assert names(out) - FINISHED <= ({CHECKPOINT} if finished else set())
        number += 1
    assert number > 25


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.usefixtures("kept_backbone")
def test_overwriting_keeps_the_old_adapter_until_the_new_one_is_finished(
    tmp_path: Path, photos: Path, backbone_file: Path
) -> None:
    out = tmp_path / "out"
    assert main(fit_command(photos, backbone_file, out)) == 0
    old = load_adapter(out)[1]
    assert main(fit_command(photos, backbone_file, tmp_path / "calm", "--seed", "2")) == 0
    new = load_adapter(tmp_path / "calm")[1]
    assert main([*fit_command(photos, backbone_file, out, "--overwrite"), "--shots", "9"]) == 2, "there are eight"
    assert same(load_adapter(out)[1], old)
    other = fit_command(photos, backbone_file, out, "--seed", "2", "--overwrite")
    seen: list[bool] = []
    for number in range(2, 40, 6):
        with Faulty(tmp_path, number) as faulty, suppress(Death):
            main(other)
        seen.append(same(load_adapter(out)[1], new))
        assert seen[-1] or same(load_adapter(out)[1], old)
        if not faulty.happened:
            break
    assert seen == sorted(seen)
    assert set(seen) == {False, True}
    assert main(other) == 0
    assert same(load_adapter(out)[1], new)
    assert names(out) == FINISHED


@pytest.mark.usefixtures("kept_backbone")
def test_overwrite_passes_over_a_checkpoint_of_another_run(tmp_path: Path, photos: Path, backbone_file: Path) -> None:
    out = tmp_path / "out"
    with Faulty(tmp_path, 12), pytest.raises(Death):
        main(fit_command(photos, backbone_file, out))
    assert (out / CHECKPOINT).exists()
    assert main(fit_command(photos, backbone_file, out, "--seed", "2")) == 2
    assert main(fit_command(photos, backbone_file, out, "--seed", "2", "--overwrite")) == 0
    assert names(out) == FINISHED
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / CHECKPOINT).write_bytes(b"nonsense")
    assert main(fit_command(photos, backbone_file, tmp_path / "damaged")) == 2
    assert main(fit_command(photos, backbone_file, tmp_path / "damaged", "--overwrite")) == 0


# bench


def some(run: str, rows: int = 2) -> list[Row]:
    return [{"run": run, "row": i, "rows": rows, "status": "done", "text": "ü" * 9} for i in range(1, rows + 1)]


def test_rows_cut_at_every_byte(tmp_path: Path) -> None:
    """Whatever part of a run's rows was written: the runs that are read stay when others are appended, each once."""
    path = tmp_path / ROWS
    before, cut = (
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in some(run)).encode() for run in ("a", "b")
    )
    for end in range(len(cut) + 1):
        path.write_bytes(before + cut[:end])
        finished = {row["run"] for row in read_rows(path)}
        assert finished == ({"a", "b"} if end >= len(cut) - 1 else {"a"})
        for run in {"b", "c"} - finished:
            append_rows(path, some(run))
        assert [(row["run"], row["row"]) for row in read_rows(path)] == [(run, i) for run in "abc" for i in (1, 2)] or [
            (row["run"], row["row"]) for row in read_rows(path)
        ] == [(run, i) for run in "acb" for i in (1, 2)]


def test_rows_that_cant_be_appended_leave_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "out" / ROWS
    append_rows(path, some("a"))
    before = path.read_bytes()
    for number in range(5):
        for fault in ERRORS:
            with Faulty(tmp_path, number, fault):
                said = ""
                try:
                    append_rows(path, some("b"))
                except OutputError as error:
                    said = str(error)
            assert (path.read_bytes() == before) == bool(said)
            assert not said or said.endswith("run the same command again.")
            path.write_bytes(before)


def plan(photos: Path) -> list[Run]:
    settings = {"epochs": 1, "batch_size": 4, "rep_dim": 8, "checkpoint_seconds": 0.0}
    return Sweep(
        protocols=("base-to-novel",),
        methods=("zero-shot", "mmrl"),
        datasets=(str(photos),),
        seeds=(1,),
        shots=(2,),
        settings=settings,
        backbone="tiny",
    ).runs()


def found(rows: list[Row]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in MEASURED} for row in rows]


@pytest.mark.usefixtures("kept_backbone")
@pytest.mark.parametrize("fault", ["death", "torn"])
def test_a_sweep_goes_on_with_no_row_lost_or_doubled(fault: str, tmp_path: Path, photos: Path) -> None:
    runs = plan(photos)

    def here(left: Sequence[Run], where: Where, finish: Finish) -> None:
        for run in left:
            finish(run, execute(run, where))

    def do(out: Path) -> list[Row]:
        return sweep(runs, Where(out=str(out), keep_adapters=True), here, quiet=True)

    expected = found(do(tmp_path / "calm"))
    whole = {json.dumps(row, sort_keys=True) for row in expected}
    number, happened = 0, True
    while happened:
        out = tmp_path / "out" / str(number)
        with Faulty(tmp_path / "out", number, fault) as faulty, suppress(Death):
            do(out)
        happened = faulty.happened
        if (out / ROWS).exists():
            assert {json.dumps(row, sort_keys=True) for row in found(read_rows(out / ROWS))} <= whole
        assert found(do(out)) == expected
        lines = (out / ROWS).read_text().splitlines()
        assert len(lines) - len(expected) in (0, 1), "a first row whose second was cut off may stay in the file"
        assert len(read_rows(out / ROWS)) == len(expected)
        left = [p.name for p in out.rglob("*") if p.is_file()]
        assert set(left) <= FINISHED | {ROWS}
        number += 1 if fault == "death" else 3
    assert number > 30
