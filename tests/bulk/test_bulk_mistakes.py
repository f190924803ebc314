"""Prediction into a file: what can't be read is a row or a sentence."""

from __future__ import annotations

import shutil
import sys
import tarfile
from pathlib import Path

import pytest
from scaling import (
    IMAGES,
    adapter,
    as_list,
    as_parquet,
    as_tar,
    folder,
    hub_column,
    make,
    pq,
    read,
    small_pieces,
)

from fewclip.bulk import pieces
from fewclip.cli import main

__all__ = ["adapter", "folder", "small_pieces"]


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
        "empty.txt": "sources that were given contain no images",
        "texts.tar": "sources that were given contain no images",
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
    mistake(capsys, [*good, "-o", str(tmp_path / "file/out.csv")], "can't be used")
    mistake(capsys, [*good, *out, "--json"], "--json and --csv print")
    mistake(capsys, [*good, *out, "--top", "0"], "--top is 0")
    mistake(capsys, [*good, *out, "--classes", ","], "classes is empty")
    mistake(capsys, [*good, "--processes", "2"], "--processes is for writing to a file")
    mistake(capsys, [*good, "--executor", "ray"], "give -o FILE")
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
