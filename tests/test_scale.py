"""Prediction into a file: one row an image, whatever the source, whatever stops it."""

from __future__ import annotations

import csv
import json
import os
import resource
import shutil
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import COLOURS, picture

pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'fewclip[scale]'")

import pyarrow.parquet as pq
from scale_sources import as_list, as_parquet, as_tar, hub_column, kinds

from fewclip import FewShotClassifier
from fewclip.cli import main
from fewclip.errors import DataError, OutputError
from fewclip.methods import METHODS
from fewclip.scale import Done, Job, label, parquet, pieces, sources, tars
from fewclip.scale.local import Finish
from fewclip.scale.plan import write_plan
from fewclip.scale.predictor import DEADLY, Order, Predictor, Spec
from fewclip.scale.sources import Sources

Row = dict[str, Any]


def here(orders: Sequence[Order], spec: Spec, finish: Finish) -> None:
    """Executes in this process."""
    for part in Predictor(spec, 1).parts(orders):
        finish(part)


def png(name: str, seed: int) -> bytes:
    out = BytesIO()
    picture(COLOURS[name], seed).save(out, "PNG")
    return out.getvalue()


IMAGES = {f"{name}/{n}.png": png(name, n) for name in sorted(COLOURS) for n in range(4)}


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, backbone_file: Path) -> Path:
    return fitted("zero-shot", tmp_path_factory.mktemp("adapter"), backbone_file)


def fitted(method: str, folder: Path, backbone_file: Path) -> Path:
    examples = [(picture(colour, 50 + n), name) for name, colour in COLOURS.items() for n in range(2)]
    quick: dict[str, Any] = {"epochs": 1, "batch_size": 3} if method != "zero-shot" else {}
    quick |= {"rep_dim": 8} if method == "mmrl" else {}
    FewShotClassifier(method, str(backbone_file), shots=2, **quick).fit(examples).save(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    kinds(tmp_path, IMAGES)
    return tmp_path / "folder"


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (pieces, sources, tars, parquet):
        monkeypatch.setattr(module, "PIECE", 4)


def read(out: Path) -> list[Row]:
    found: list[Row] = pq.read_table(out).to_pylist()
    return found


def make(adapter: Path, named: Any, out: Path, **more: Any) -> Done:
    named = [named] if isinstance(named, (str, Path)) else named
    how: dict[str, Any] = {"executor": here}
    how |= {key: more.pop(key) for key in ("executor", "overwrite", "report") if key in more}
    return label(Job(adapter=str(adapter), sources=tuple(map(str, named)), **more), out, **how)


# Sources


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


# What can't be read


def test_unreadable_images_are_rows(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_pieces: None
) -> None:
    good = next(iter(IMAGES.values()))
    (tmp_path / "cut.png").write_bytes(good[:80])
    (tmp_path / "good.png").write_bytes(good)
    (tmp_path / "a folder").mkdir()
    lines = ["good.png", "cut.png", "none.png", "a folder", "n\0ul.png", "x" * 5000, "../" * 3]
    listed = as_list(tmp_path / "list.txt", lines)
    assert make(adapter, listed, tmp_path / "list.parquet").errors == len(lines) - 1
    said = {row["id"]: row["error"] for row in read(tmp_path / "list.parquet")}
    assert said["good.png"] is None
    assert "does not exist" in said["none.png"]
    assert "is a folder" in said["a folder"]
    assert "damaged, truncated" in said["cut.png"]

    values = [(good, None), (b"text", None), (None, None), (None, "../good.png"), (None, "good.png"), (b"", "x.png")]
    table = as_parquet(tmp_path / "rows.parquet", {"image": hub_column(values)})
    make(adapter, table, tmp_path / "rows.out.parquet")
    errors = [row["error"] for row in read(tmp_path / "rows.out.parquet")]
    assert [error is None for error in errors] == [True, False, False, False, True, False]
    assert "its cell is empty" in errors[2]
    assert "not a path inside its folder" in errors[3]

    file = tmp_path / "links.tar"
    with tarfile.open(file, "w") as tar:
        tar.add(tmp_path / "good.png", "0.png")
        for name, kind in (("1.png", tarfile.SYMTYPE), ("2.png", tarfile.LNKTYPE), ("3.png", tarfile.DIRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    make(adapter, file, tmp_path / "tar.parquet")
    rows = read(tmp_path / "tar.parquet")
    assert [row["id"] for row in rows] == ["0", "1", "2"]
    assert "is a link" in rows[1]["error"]
    assert "is a link" in rows[2]["error"]

    monkeypatch.setattr(pieces, "MAX_BYTES", len(good) - 1)
    make(adapter, file, tmp_path / "large.parquet")
    assert "more than the" in read(tmp_path / "large.parquet")[0]["error"]


def test_a_damaged_row_group_is_rows_with_errors(adapter: Path, tmp_path: Path) -> None:
    file = as_parquet(tmp_path / "rows.parquet", {"image": list(IMAGES.values())}, row_group=4)
    place = pq.read_metadata(file).row_group(1).column(0)
    data = bytearray(file.read_bytes())
    start = place.dictionary_page_offset or place.data_page_offset
    data[start : start + place.total_compressed_size] = b"\xff" * place.total_compressed_size
    file.write_bytes(data)
    assert make(adapter, file, tmp_path / "out.parquet").rows == 12
    assert [row["error"] is None for row in read(tmp_path / "out.parquet")] == [True] * 4 + [False] * 4 + [True] * 4


def bomb() -> bytes:
    """A header that says of itself that gigabytes of further header follow."""
    info = tarfile.TarInfo("long")
    info.type, info.size = tarfile.XHDTYPE, 1 << 33
    return info.tobuf() + bytes(1024)


def test_mistakes(adapter: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    members = [(f"{n}.png", data) for n, data in enumerate(IMAGES.values())]
    whole = as_tar(tmp_path / "whole.tar", members).read_bytes()
    with tarfile.open(tmp_path / "whole.tar") as tar:
        header = tar.getmembers()[2].offset
    middle = whole[:header] + b"x" * 512 + whole[header + 512 :]
    broken = {"cut": whole[: header + 600], "middle": middle, "none": b"", "bomb": bomb()}
    for name, data in broken.items():
        (tmp_path / f"{name}.tar").write_bytes(data)
    (tmp_path / "packed.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    as_tar(tmp_path / "texts.tar", [("a.txt", b"x")])
    (tmp_path / "no.parquet").write_bytes(b"PAR1")
    as_parquet(tmp_path / "numbers.parquet", {"n": [1, 2]})
    as_parquet(tmp_path / "two.parquet", {"left": [b"1"], "right": [b"2"]})
    as_list(tmp_path / "empty.txt", ["", ""])
    shutil.copytree(folder, tmp_path / "mixed")
    as_tar(tmp_path / "mixed" / "backup.tar", [])
    (tmp_path / "file").write_text("")
    table = {
        "nowhere": "There is no image, folder or list",
        "empty": "holds no images, tars or Parquet",
        "empty.txt": "no images in what was named",
        "texts.tar": "no images in what was named",
        "mixed": "name one kind",
        "x*.png": "No images, tars or Parquet files are named by",
        "{0..2}.tar": "There is no file",
        "a.tar.gz": "There is no image",
        "packed.tar": "is compressed",
        "cut.tar": "damaged or cut off",
        "middle.tar": "damaged or cut off",
        "none.tar": "damaged or cut off",
        "bomb.tar": "damaged or cut off",
        "no.parquet": "can't be read as Parquet",
        "numbers.parquet": "name it with --column",
        "two.parquet": "name it with --column",
    }
    out = ["-o", str(tmp_path / "out.parquet")]
    for name, sentence in table.items():
        mistake(capsys, ["predict", str(adapter), str(tmp_path / name), *out], sentence)
    good = ["predict", str(adapter), str(folder)]
    mistake(capsys, [*good, "-o", str(tmp_path / "out.xlsx")], "ends in .parquet, .csv, .jsonl")
    mistake(capsys, [*good, "-o", str(tmp_path / "file/out.csv")], "can't be written")
    mistake(capsys, [*good, *out, "--json"], "--json and --csv print")
    mistake(capsys, [*good, *out, "--top", "0"], "--top is 0")
    mistake(capsys, [*good, *out, "--classes", ","], "classes is empty")
    mistake(capsys, [*good, *out, "--processes", "0"], "processes is 0")
    mistake(capsys, ["predict", str(adapter), *out], "No images were given")
    mistake(capsys, ["predict", str(tmp_path / "none"), str(folder), *out], "There is no adapter")
    mistake(
        capsys, ["predict", str(adapter), str(tmp_path / "two.parquet"), *out, "--column", "up"], "has no column 'up'"
    )
    assert not (tmp_path / "out.parquet").exists()


def mistake(capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str) -> None:
    assert main(arguments) == 2, arguments
    said = capsys.readouterr().err
    assert sentence in said, said
    assert "Traceback" not in said


def test_pyarrow_is_named_where_it_is_missing(
    adapter: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(Exception, match=r"pip install 'fewclip\[scale\]'"):
        make(adapter, folder, tmp_path / "out.csv")


# Going on


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
    assert sorted(p.name for p in work.iterdir()) == ["job.json", "lock"]
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
        with pytest.raises(OutputError, match=f"was begun with another {name}.*--overwrite"):
            make(adapter, folder, out, **changed)
    with pytest.raises(OutputError, match="was begun with another adapter"):
        make(other, folder, out)
    (folder / "red" / "0.png").write_bytes(png("blue", 77))
    with pytest.raises(OutputError, match="was begun with another source"):
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
        with pytest.raises(OutputError, match="Another process is writing") as error:
            make(adapter, folder, tmp_path / "out.parquet")
        refused.append(str(error.value))
        here(orders, spec, finish)

    make(adapter, folder, tmp_path / "out.parquet", executor=executor)
    assert refused
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


def test_little_is_decoded_ahead(adapter: Path, folder: Path, tmp_path: Path, small_pieces: None) -> None:
    """A worker whose rows are not taken stops reading."""
    plan = write_plan(tmp_path / "plan", Sources([str(folder)]))
    taken: list[int] = []

    def orders() -> Iterator[Order]:
        for n in range(100):
            taken.append(n)
            yield Order(n, plan.places[0])

    parts = Predictor(Spec(str(plan.path), str(adapter), None, 1, False), 1).parts(orders())
    next(parts)
    seen = -1
    while seen != len(taken):
        seen = len(taken)
        time.sleep(0.3)
    assert seen < 8


def test_an_image_that_ends_its_process_is_left_out(adapter: Path, folder: Path, tmp_path: Path) -> None:
    plan = write_plan(tmp_path / "plan", Sources([str(folder)]))
    announced: list[int] = []
    predictor = Predictor(Spec(str(plan.path), str(adapter), None, 1, False), 1)
    order = Order(0, plan.places[0], careful=True, skip=frozenset([3]))
    (part,) = predictor.parts([order], lambda number, image: announced.append(image))
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
    for piece in (found[0], found[2], found[5], found[1]):
        assert [image.load() for image in piece.images()] == [str(piece.first + n).encode() for n in range(10)]
    assert len(opened) == 2


def test_sources_that_can_not_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"x")

    def refuse(path: Any) -> Any:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="can't be listed: Permission denied"):
        Sources([str(tmp_path / "in")])
