"""Prediction into a file: what is done is kept, and is not mixed with anything else."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from scaling import (
    IMAGES,
    adapter,
    as_parquet,
    fitted,
    folder,
    here,
    make,
    png,
    read,
    small_pieces,
)

from fewclip.bulk.local import Finish
from fewclip.bulk.predictor import Order, Spec
from fewclip.errors import OutputError

__all__ = ["adapter", "folder", "small_pieces"]


class Stop(Exception):
    pass


def stops_after(parts: int, done: list[int] | None = None) -> Any:
    """An executor that is interrupted."""

    def executor(orders: Sequence[Order], spec: Spec, finish: Finish) -> None:
        def few(part: Any) -> None:
            nonlocal parts
            if parts == 0:
                raise Stop
            parts -= 1
            if done is not None:
                done.append(part.number)
            finish(part)

        here(orders, spec, few)

    return executor


def test_what_is_done_is_not_done_again(adapter: Path, folder: Path, tmp_path: Path, small_pieces: None) -> None:
    out = tmp_path / "out.parquet"
    with pytest.raises(Stop):
        make(adapter, folder, out, executor=stops_after(2))
    assert not out.exists()
    work = tmp_path / ".out.parquet.fewclip"
    (work / "part-1.parquet").write_bytes((work / "part-1.parquet").read_bytes()[:50])  # a disk that lost its end
    numbers: list[int] = []
    done = make(adapter, folder, out, executor=stops_after(9, numbers))
    assert numbers == [1, 2]
    assert done.before == 4
    make(adapter, folder, tmp_path / "calm.parquet")
    assert out.read_bytes() == (tmp_path / "calm.parquet").read_bytes()
    assert sorted(p.name for p in work.iterdir()) == ["job.json"]
    again = make(adapter, folder, out, executor=stops_after(0))
    assert again.before == again.rows == len(IMAGES)


def test_parts_of_something_else_are_not_mixed_in(
    adapter: Path, folder: Path, backbone_file: Path, tmp_path: Path, small_pieces: None
) -> None:
    out = tmp_path / "out.parquet"
    with pytest.raises(Stop):
        make(adapter, folder, out, executor=stops_after(1))
    other = fitted("mmrl", tmp_path / "other", backbone_file)
    for changed, name in (({"top": 2}, "top"), ({"classes": ("red",)}, "classes"), ({"probabilities": True}, "prob")):
        with pytest.raises(OutputError, match=f"was started with another {name}.*--overwrite"):
            make(adapter, folder, out, **changed)
    with pytest.raises(OutputError, match="was started with another adapter"):
        make(other, folder, out)
    (folder / "red" / "0.png").write_bytes(png("blue", 77))
    with pytest.raises(OutputError, match="was started with another source"):
        make(adapter, folder, out)
    assert make(adapter, folder, out, overwrite=True).before == 0
    with pytest.raises(OutputError, match="exists already"):
        make(other, folder, out)
    make(other, folder, out, overwrite=True)
    make(other, folder, tmp_path / "calm.parquet")
    assert read(out) == read(tmp_path / "calm.parquet")


def test_a_file_of_others_is_left_alone(adapter: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    out.write_text("mine")
    with pytest.raises(OutputError, match="exists already: give --overwrite"):
        make(adapter, folder, out)
    assert out.read_text() == "mine"
    make(adapter, folder, out, overwrite=True)
    out.write_text("mine again")
    with pytest.raises(OutputError, match="exists already"):
        make(adapter, folder, out)


def test_the_output_may_lie_among_the_images(adapter: Path, folder: Path, tmp_path: Path) -> None:
    data = as_parquet(tmp_path / "set" / "a.parquet", {"image": list(IMAGES.values())})
    for named in (folder, data.parent, data.parent / "*.parquet"):
        out = (data.parent if named != folder else folder) / "out.parquet"
        make(adapter, named, out, overwrite=True)
        assert make(adapter, named, out).before == len(IMAGES)


def test_a_second_writer_is_refused(adapter: Path, folder: Path, tmp_path: Path) -> None:
    refused: list[str] = []

    def executor(orders: Sequence[Order], spec: Spec, finish: Finish) -> None:
        with ThreadPoolExecutor(1) as other:
            error = other.submit(make, adapter, folder, tmp_path / "out.parquet").exception()
        refused.append(str(error))
        here(orders, spec, finish)

    make(adapter, folder, tmp_path / "out.parquet", executor=executor)
    assert refused == [
        f"Another process is writing to {tmp_path / 'out.parquet'}: wait until it ends, or give another output."
    ]
    assert len(read(tmp_path / "out.parquet")) == len(IMAGES)


@pytest.mark.parametrize("where", ["parts", "the whole"])
def test_a_full_disk_loses_no_finished_part(
    where: str, adapter: Path, folder: Path, tmp_path: Path, small_pieces: None
) -> None:
    """A limit on the size of files: the system refuses the rest of a file, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    out = tmp_path / "out.parquet"

    def executor(orders: Sequence[Order], spec: Spec, finish: Finish) -> None:
        def until_full(part: Any) -> None:
            if part.number == 2 and where == "parts":
                full()
            finish(part)
            if part.number == 2:
                full()

        here(orders, spec, until_full)

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))

    try:
        with pytest.raises(OutputError, match=r"Could not write .*What is finished is kept"):
            make(adapter, folder, out, executor=executor)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not out.exists()
    left: list[int] = []
    make(adapter, folder, out, executor=stops_after(9, left))
    assert left == ([2] if where == "parts" else [])
    assert len(read(out)) == len(IMAGES)
