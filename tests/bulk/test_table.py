"""Rows of a part, and parts of a file: each image keeps its own answer, in the order of the source."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from scaling import IMAGES, adapter, folder, make, pq, read

from fewclip.bulk import sources
from fewclip.bulk.table import encode
from fewclip.bulk.work import Work

__all__ = ["adapter", "folder"]
SHARES = np.array([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3], [0.2, 0.2, 0.6]], np.float32)
"""Of the images that could be read: the second, third and fifth of five."""
ERRORS = ["broken", None, None, "broken too", None]


def part(top: int, probabilities: bool = False) -> list[dict[str, object]]:
    paths, ids = [f"in/{n}.png" for n in range(5)], [str(n) for n in range(5)]
    data = encode(paths, ids, ERRORS, SHARES, ["x", "y", "z"], top, probabilities)
    rows: list[dict[str, object]] = pq.read_table(BytesIO(data)).to_pylist()
    assert [(row["path"], row["id"]) for row in rows] == list(zip(paths, ids, strict=True))
    return rows


def test_rows_stay_with_their_images() -> None:
    rows = part(top=2, probabilities=True)
    assert [row["error"] for row in rows] == ERRORS
    assert [row["class"] for row in rows] == [None, "y", "x", None, "z"]
    assert [row["probability"] for row in rows] == pytest.approx([None, 0.7, 0.5, None, 0.6])
    shares = [row["probabilities"] for row in rows]
    assert shares == [None, *map(pytest.approx, SHARES[:2].tolist()), None, pytest.approx(SHARES[2].tolist())]


def test_the_most_probable_class_comes_first_and_ties_keep_their_order() -> None:
    ranked = {
        top: [None if row["top"] is None else [one["class"] for one in row["top"]] for row in part(top)]  # type: ignore[attr-defined]
        for top in (1, 2, 9)
    }
    assert ranked == {
        1: [None, ["y"], ["x"], None, ["z"]],
        2: [None, ["y", "z"], ["x", "z"], None, ["z", "x"]],
        9: [None, ["y", "z", "x"], ["x", "z", "y"], None, ["z", "x", "y"]],
    }


def test_more_than_ten_parts_are_joined_by_number(
    adapter: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "PIECE", 1)
    make(adapter, folder, tmp_path / "out.parquet")
    assert len(IMAGES) > 10
    assert [row["id"] for row in read(tmp_path / "out.parquet")] == list(IMAGES)


def test_a_part_counts_if_it_is_whole(adapter: Path, folder: Path, tmp_path: Path) -> None:
    """Rows of a part that is damaged, or of another length than its piece, are made again."""
    from fewclip.bulk.plan import write_plan
    from fewclip.bulk.sources import Sources

    work = Work(tmp_path / "out.parquet")
    work.folder.mkdir()
    plan = write_plan(work.plan, Sources([str(folder)]))
    five = encode([""] * 5, [""] * 5, ERRORS, SHARES, ["x", "y", "z"], 1, False)
    twelve = encode([""] * 12, [""] * 12, ["no"] * 12, SHARES[:0], ["x", "y", "z"], 1, False)
    for data, done in ((five, set()), (twelve[:-9], set()), (twelve, {0})):
        work.part(0).write_bytes(data)
        work.part(7).write_bytes(data)  # a number that the plan does not have
        assert work.done(plan) == done
