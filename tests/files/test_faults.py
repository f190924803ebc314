"""Files, adapters and rows under a death or a full disk at every single file operation (tests/support/faulty.py)."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from faulty import Death, Faulty, attempts, names, no_waiting_for_disks  # noqa: F401
from torch import Tensor

from fewclip.adapters.config import AdapterConfig, TrainingSummary
from fewclip.adapters.disk import CARD, CONFIG, WEIGHTS, load_adapter, save_adapter
from fewclip.bench.rows import ROWS, append_rows, read_rows
from fewclip.data.sheet import Sample, sheet
from fewclip.errors import AdapterError, OutputError
from fewclip.files.lock import only_writer
from fewclip.files.write import write_bytes, write_files

FINISHED = {WEIGHTS, CONFIG, CARD}
DEATHS = ("death", "torn")
ERRORS = ("full", errno.ENOSPC, errno.EIO, errno.EROFS)


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
    config = AdapterConfig(
        method="mmrl",
        settings={},
        backbone="tiny",
        backbone_fingerprint="f" * 64,
        classes=["a", "b"],
        added_classes=[],
        template="a photo of a {}.",
        training=TrainingSummary(seconds=value),
    )
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
    assert config.training == TrainingSummary(seconds=value), "weights and configuration of one save"
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


def test_a_save_waits_for_another_writer_and_then_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewclip.adapters.disk.PATIENCE", 0.05)
    said: list[str] = []

    def other() -> None:
        try:
            save(tmp_path / "a", 1)
        except OutputError as error:
            said.append(str(error))

    with only_writer(tmp_path / "a"):
        save(tmp_path / "a", 2)
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert said == [f"Another process is writing to {tmp_path / 'a'}: wait until it ends, or give another output."]
    assert saved(tmp_path / "a") == 2


def test_a_save_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="can't be used"):
        save(tmp_path / "file" / "a", 1)


# Rows


def some(run: str, rows: int = 2) -> list[dict[str, Any]]:
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
