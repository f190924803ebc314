"""Prediction into a file: one row an image, the same as predict_proba's, whatever the source."""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import COLOURS
from scaling import (
    IMAGES,
    adapter,
    as_list,
    as_parquet,
    as_tar,
    fitted,
    folder,
    kinds,
    make,
    pq,
    read,
    small_pieces,
)

from fewclip import FewShotClassifier
from fewclip.bulk import parquet
from fewclip.bulk.plan import write_plan
from fewclip.bulk.predictor import DEADLY, Order, Predictor, Spec
from fewclip.bulk.sources import Sources
from fewclip.errors import DataError
from fewclip.methods import METHODS

__all__ = ["adapter", "folder", "small_pieces"]


@pytest.mark.parametrize("kind", list(kinds(Path(), {})))
def test_every_kind_of_source(kind: str, adapter: Path, tmp_path: Path, small_pieces: None) -> None:
    named, paths, ids = kinds(tmp_path, IMAGES)[kind]()
    out = tmp_path / "out.parquet"
    done = make(adapter, named, out, probabilities=True)
    rows = read(out)
    assert [row["path"] for row in rows] == paths
    assert [row["id"] for row in rows] == ids
    assert (done.rows, done.errors, done.repeated) == (len(IMAGES), 0, int(kind == "list"))
    classifier = FewShotClassifier.load(adapter)
    expected = classifier.predict_proba(list(IMAGES.values()))
    assert np.abs(np.array([row["probabilities"] for row in rows]) - expected).max() < 1e-6
    assert [row["class"] for row in rows] == [classifier.classes_[i] for i in expected.argmax(1)]


@pytest.mark.parametrize("method", ["mmrl", "tip-adapter", "cocoop", "clip-lora"])
def test_rows_are_those_of_predict_proba(method: str, folder: Path, backbone_file: Path, tmp_path: Path) -> None:
    adapter = fitted(method, tmp_path / "a", backbone_file)
    classes = ["red", "zebra"] if METHODS[method].new_classes else ["red", "blue"]
    if not METHODS[method].new_classes:
        classes = None  # type: ignore[assignment]
    make(adapter, folder, tmp_path / "out.parquet", classes=classes and tuple(classes), probabilities=True)
    expected = FewShotClassifier.load(adapter).predict_proba([str(folder / name) for name in IMAGES], classes)
    found = np.array([row["probabilities"] for row in read(tmp_path / "out.parquet")])
    assert np.abs(found - expected).max() < 1e-6


def test_columns_of_a_row(adapter: Path, folder: Path, tmp_path: Path) -> None:
    make(adapter, folder, tmp_path / "out.parquet", top=2)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["path", "id", "error", "class", "probability", "top"]
    about = {key.decode(): json.loads(value) for key, value in table.schema.metadata.items()}
    assert about["fewclip.classes"] == sorted(COLOURS)
    for row in table.to_pylist():
        first, second = row["top"]
        assert (row["class"], row["probability"]) == (first["class"], first["probability"])
        assert first["probability"] >= second["probability"]


def test_csv_and_jsonl_say_the_same(adapter: Path, folder: Path, tmp_path: Path) -> None:
    (folder / "red" / "0.png").write_bytes(b"none")
    for ending in ("parquet", "jsonl", "csv"):
        make(adapter, folder, tmp_path / f"out.{ending}")
    rows = read(tmp_path / "out.parquet")
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == rows
    with (tmp_path / "out.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [(row["path"], row["error"], row["class"]) for row in table] == [
        (row["path"], row["error"] or "", row["class"] or "") for row in rows
    ]
    assert [json.loads(row["top"] or "null") for row in table] == [row["top"] for row in rows]


def test_an_image_named_twice_is_one_row(adapter: Path, folder: Path, tmp_path: Path) -> None:
    again = as_list(folder.parent / "again.txt", [folder / "red/1.png", folder / "blue/0.png", "none.png", "none.png"])
    done = make(adapter, [folder, again, folder / "red/1.png"], tmp_path / "out.parquet")
    assert (done.rows, done.errors, done.repeated) == (len(IMAGES) + 1, 1, 4)


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes")
def test_names_that_are_no_text(adapter: Path, tmp_path: Path) -> None:
    names = ["a\nb.png", " blank .png", 'quo"te,.png', "日本 😀.PNG", "\udcff\udce9.png", "a\\b.png", "#1*?[x].png"]
    data = next(iter(IMAGES.values()))
    for name in names:
        (tmp_path / "in" / os.fsencode(name).decode("utf-8", "surrogateescape")).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    as_tar(tmp_path / "in.tar", [("d.1/" + name, data) for name in names] + [("x" * 300 + ".a.png", data)])
    expected = sorted(name.replace("\udcff\udce9", r"\xff\xe9") for name in names)
    for ending in ("parquet", "csv", "jsonl"):
        done = make(adapter, tmp_path / "in", tmp_path / f"out.{ending}")
        assert (done.rows, done.errors) == (len(names), 0)
    assert sorted(row["id"] for row in read(tmp_path / "out.parquet")) == expected
    make(adapter, tmp_path / "in" / "#1*?[x].png", tmp_path / "one.parquet")
    make(adapter, tmp_path / "in.tar", tmp_path / "tar.parquet")
    rows = read(tmp_path / "tar.parquet")
    assert {row["error"] for row in rows} == {None}
    assert rows[-1]["id"] == "x" * 300
    assert rows[0]["id"] == "d.1/a\nb"


def test_little_is_decoded_ahead(adapter: Path, folder: Path, tmp_path: Path, small_pieces: None) -> None:
    """A worker whose rows are not taken stops reading."""
    plan = write_plan(tmp_path / "plan", Sources([str(folder)]))
    taken: list[int] = []

    def orders() -> Iterator[Order]:
        for n in range(100):
            taken.append(n)
            yield Order(n, plan.places[0])

    parts = Predictor(Spec(str(plan.path), str(adapter), None, 1, False)).parts(orders())
    next(parts)
    seen = -1
    while seen != len(taken):
        seen = len(taken)
        time.sleep(0.3)
    assert seen < 8


def test_an_image_that_ends_its_process_is_left_out(adapter: Path, folder: Path, tmp_path: Path) -> None:
    plan = write_plan(tmp_path / "plan", Sources([str(folder)]))
    announced: list[int] = []
    predictor = Predictor(Spec(str(plan.path), str(adapter), None, 1, False))
    order = Order(0, plan.places[0], careful=True, skip=frozenset([3]))
    (part,) = predictor.parts([order], announced.append)
    errors = pq.read_table(BytesIO(part.data)).column("error").to_pylist()
    assert errors == [DEADLY if n == 3 else None for n in range(len(IMAGES))]
    assert announced == list(range(len(IMAGES)))


def test_a_row_group_is_read_once_by_pieces_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = as_parquet(tmp_path / "rows.parquet", {"image": [str(n).encode() for n in range(100)]})
    monkeypatch.setattr(parquet, "PIECE", 10)
    opened: list[str] = []
    plain = parquet._open
    monkeypatch.setattr(parquet, "_open", lambda path: opened.append(path) or plain(path))  # type: ignore[func-returns-value]
    found = list(parquet.row_pieces(str(file), None, None))
    opened.clear()
    reader = parquet.RowReader()
    for piece in (found[0], found[1], found[4], found[5], found[2]):
        assert [image.load() for image in reader.images(piece)] == [str(piece.first + n).encode() for n in range(10)]
    assert len(opened) == 2


def test_sources_that_can_not_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"x")

    def refuse(path: Any) -> Any:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="can't be listed: Permission denied"):
        Sources([str(tmp_path / "in")])
