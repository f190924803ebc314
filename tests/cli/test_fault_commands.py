"""fit, bench and predict: deaths and full disks at every file operation, second writers, places that can't be written to.

benchmarks/faults.py kills real processes at random moments.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from faulty import Death, Faulty, names, no_waiting_for_disks  # noqa: F401
from safetensors.torch import load_file
from torch import Tensor

from fewclip.adapters.disk import CARD, CONFIG, WEIGHTS, load_adapter
from fewclip.bench.rows import MEASURED, ROWS, Row, read_rows
from fewclip.bench.run import Run, Where
from fewclip.bench.sweep import Finish, Sweep, execute, sweep
from fewclip.cli import main
from fewclip.cli.fit import CHECKPOINT
from fewclip.clip.model import CLIP
from fewclip.errors import AdapterError, OutputError
from fewclip.files.lock import LOCK, only_writer

FINISHED = {WEIGHTS, CONFIG, CARD}


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
    held: Path, photos: Path, backbone_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = f"Another process is writing to {held}"
    assert main(fit_command(photos, backbone_file, held)) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert len(said.strip().splitlines()) == 1
    bench = ["bench", "few-shot", "--methods", "zero-shot", "--datasets", str(photos), "--shots", "1", "--seeds", "1"]
    assert main([*bench, "--backbone", str(backbone_file), "--out", str(held)]) == 2
    assert sentence in capsys.readouterr().err
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
            with pytest.raises(AdapterError, match=r"not a finished adapter|no adapter folder"):
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


def plan(photos: Path) -> list[Run]:
    settings = {"epochs": 1, "batch_size": 4, "rep_dim": 8, "checkpoint_seconds": 0.0}
    return Sweep(
        protocols=("base-to-novel",),
        methods=("zero-shot", "clip-adapter", "mmrl"),
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
        return sweep(runs, Where(out=str(out)), here, quiet=True)

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
    assert number > 30, "as many changes to files as a sweep makes"
