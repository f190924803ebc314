"""Class names, files of data and result rows that mean harm (docs/security.md)."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from measuring import grown_mb
from pictures import COLOURS, picture
from PIL import Image
from results import halves, row, write
from tiny_sets import put

from fewclip import FewShotClassifier
from fewclip.bench.rows import read_rows
from fewclip.cli import main
from fewclip.clip.model import CLIP
from fewclip.data.csv import read_csv
from fewclip.data.names import check_names, key, new_names
from fewclip.data.read import read_data
from fewclip.errors import LONGEST, DataError, FewclipError, PromptError, visible
from fewclip.report.build import build
from fewclip.report.collect import load
from fewclip.report.html import page
from fewclip.report.text import comma_separated, latex, markdown

ESCAPE = "\x1b]0;owned\x07\x1b[2J"
Capture = pytest.CaptureFixture[str]


# ---- class names


@pytest.mark.parametrize(
    "name",
    [
        "a\nb",
        "a\x00b",
        ESCAPE,
        "a\x7f",
        "a\x9b31m",
        "\u202egnp.exe",
        "\u2066a",
        "a\u2028b",
        "a\u2029b",
        "a\ud800",
        "\t",
    ],
)
def test_names_that_are_not_what_they_look_like(name: str) -> None:
    with pytest.raises(PromptError, match="holds control characters") as caught:
        check_names(["cat", name], where="the test")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["", " ", "_", "_ _", "\u200b", "\u00a0\u200d", "\u3000_"])
def test_names_that_show_nothing(name: str) -> None:
    with pytest.raises(PromptError, match="has no visible characters: give it a readable name"):
        check_names(["cat", name], where="the test")


@pytest.mark.parametrize("value", [None, 3, 0.5, ["cat"], b"cat"])
def test_what_is_not_text_is_not_a_name(value: object) -> None:
    with pytest.raises(PromptError, match="expected text"):
        check_names(["cat", value], where="the test")  # type: ignore[list-item]


def test_new_names() -> None:
    assert new_names(["Cat", "polar_bear", "dog", "dog"], ["cat", "Polar  bear"]) == ["dog", "dog"]


@pytest.mark.parametrize(
    "name",
    [
        "?",
        "0",
        "e\u0301",
        "a_b",
        "猫",
        "👩\u200d👩\u200d👧",
        "می\u200cخواهم",
        "<b>cat</b>",
        "=cmd()",
        "a|b",
        "`x`",
        "'; DROP",
        "שלום",
    ],
)
def test_names_of_all_languages_are_names(name: str) -> None:
    check_names(["cat", name], where="the test")


def test_names_of_many_megabytes() -> None:
    long = "x" * 10_000_000

    def check() -> None:
        with pytest.raises(PromptError, match="has 10000000 characters") as caught:
            check_names(["cat", long], where="the test")
        assert len(str(caught.value)) < 300

    assert grown_mb(check, PromptError) < 60


def test_ten_thousand_names() -> None:
    check_names([f"class {n}" for n in range(10_000)], where="the test")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cat", "CAT"),
        ("polar_bear", "polar  bear"),
        ("caf\u00e9", "cafe\u0301"),
        ("\u212b", "\u00c5"),
        ("a\u00a0b", "a b"),
    ],
)
def test_names_that_are_the_same_prompt(one: str, other: str, backbone: CLIP) -> None:
    assert key(one) == key(other)
    assert backbone.tokenizer is not None
    words = [name.replace("_", " ") for name in (one, other)]
    assert backbone.tokenizer.encode(words[0]) == backbone.tokenizer.encode(words[1])
    with pytest.raises(PromptError, match="make the same prompt"):
        check_names([one, other], where="the test")


def test_messages_are_one_line_of_bounded_length() -> None:
    error = DataError(f"The folder {ESCAPE}\n{'x' * 10**6} is wrong: rename it.")
    assert str(error).isprintable()
    assert len(str(error)) <= LONGEST
    assert str(error).endswith("is wrong: rename it.")
    assert visible("a\x1b[1m\u202eb\ud800") == "a\\x1b[1m\\u202eb\\ud800"


def test_names_of_folders_and_files_on_a_terminal(tmp_path: Path, backbone_file: Path, capsys: Capture) -> None:
    """Escapes in names reach no terminal, names that are no Unicode stop nothing, and brackets are no markup."""
    for number, (name, colour) in enumerate(COLOURS.items()):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(2):
            picture(colour, 10 * number + i).save(tmp_path / "photos" / name / f"{i}.png")
    odd = os.fsdecode(b"caf\xe9\x1b[2J.png")
    (tmp_path / "photos" / "red" / "0.png").rename(tmp_path / "photos" / "red" / odd)
    photos, out = str(tmp_path / "photos"), str(tmp_path / "out")
    quick = ["--shots", "2", "--epochs", "1", "--rep-dim", "8", "--backbone", str(backbone_file)]
    assert main(["fit", photos, "-o", out, *quick]) == 0
    again = FewShotClassifier.load(out)
    assert f"red/{odd}" in again.adapter_.train_keys
    capsys.readouterr()
    assert main(["predict", out, photos]) == 0
    assert "caf\\udce9\\x1b[2J.png" in capsys.readouterr().out
    (tmp_path / "photos" / "red").rename(tmp_path / "photos" / f"[bold]{ESCAPE}")
    assert main(["data", "show", photos]) == 0
    shown = capsys.readouterr().out
    assert "[bold]\\x1b]0;owned" in shown
    assert main(["fit", photos, "-o", f"{out}2", *quick]) == 2
    said = capsys.readouterr().err
    assert "holds control characters" in said
    assert "\x1b" not in shown + said


def test_a_terminal_that_knows_no_unicode(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["methods"]) == 0
    stream.flush()


# ---- files of data


def csv(folder: Path, text: str | bytes) -> Path:
    for image in ("a/1.jpg", "b/1.jpg"):
        put(folder / image)
    (folder / "labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / "labels.csv"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("path;class\na/1.jpg;ant\n", "begins with 'path;class': expected a first line"),
        ("path\tclass\na/1.jpg\tant\n", "begins with"),
        ("path,class\n../a/1.jpg,ant\n", "which is not a path inside its folder"),
        ("path,class\n\\\\host\\share\\1.jpg,ant\n", "which is not a path inside its folder"),
        ("path,class\nC:1.jpg,ant\n", "which is not a path inside its folder"),
        ("path,class\nfile:///etc/passwd,ant\n", "are not in"),
        (f"path,class\na/1.jpg,{'x' * 200_000}\n", "Line 2 of .* is not valid CSV .*field limit"),
        (f"path,class\n{'x' * 5000},ant\n", "which is not a path inside its folder"),
        (b"path,class\n\xed\xa0\x80.jpg,ant\n", "it is not UTF-8"),
        (b"path,class\na/1.jpg,a\0b\n", "which|line contains NUL|control"),
        (f"path,class\n{ESCAPE},ant\n", r"are not in .*\\x1b"),
    ],
)
def test_hostile_csv_files(text: str | bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(FewclipError, match=says) as caught:
        check_names(read_csv(csv(tmp_path, text)).classes, where="the file")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 200_000, "nested too deeply"),
        ('{"train": [["\\ud800/1.jpg", 0, "a"]], "val": [], "test": []}', "not a path inside its folder"),
        ('{"train": [["../1.jpg", 0, "a"]], "val": [], "test": []}', "not a path inside its folder"),
        (
            '{"train": [["a/1.jpg", 0, "%s"], ["a/1.jpg", 0, "b"]], "val": [], "test": []}' % ("x" * 10**6),
            "gives the label 0",
        ),
        ('{"train": [["a/1.jpg", %s, "a"]], "val": [], "test": []}' % ("9" * 5000), "can't be read as JSON"),
        ('{"train": [["a/1.jpg", 1e999, "a"]], "val": [], "test": []}', "has the entry"),
        ("null", "is not a split file"),
    ],
)
def test_hostile_split_files(text: str, says: str, tmp_path: Path) -> None:
    csv(tmp_path / "images", "")
    (tmp_path / "split_zhou_DescribableTextures.json").write_text(text)
    with pytest.raises(DataError, match=says) as caught:
        read_data(tmp_path)
    assert len(str(caught.value)) <= LONGEST


def test_files_that_are_too_large_are_not_read(tmp_path: Path) -> None:
    file = csv(tmp_path, "path,class\na/1.jpg,ant\n")
    os.truncate(file, 300 << 20)  # takes no room

    def read() -> None:
        with pytest.raises(DataError, match="it has 314,572,800 bytes, more than the limit of 268,435,456"):
            read_csv(file)

    assert grown_mb(read, DataError) < 20


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "~nobody/x", "\ud800"])
def test_names_that_no_file_can_have(name: str) -> None:
    for call in (read_data, CLIP.from_pretrained, FewShotClassifier.load, lambda n: load([n])):
        with pytest.raises(FewclipError):
            call(name)


# ---- result rows


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rows": 10**12}, "no run has finished"),
        ({"rows": "1"}, "is not a result row"),
        ({"run": ["a"]}, "is not a result row"),
        ({"seed": 10**400}, "has no usable seed"),
        ({"shots": -1}, "has no usable shots"),
        ({"accuracy": 1e12}, "has no usable accuracy"),
        ({"confusions": [["a"]]}, "has no usable confusions"),
        ({"confusions": 7}, "has no usable confusions"),
        ({"examples": [{"key": "a"}]}, "has no usable examples"),
        ({"protocol": ESCAPE}, "The results are of"),
    ],
)
def test_rows_that_lie(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [row(**change)] if "run" not in change else [{**dict(row()), **change}])
    if "run" in change:
        (tmp_path / "rows.jsonl").write_text((tmp_path / "rows.jsonl").read_text() + "\n\n")

    def read() -> None:
        with pytest.raises(DataError, match=says):
            build(load([tmp_path]))

    assert grown_mb(read, DataError) < 60


def test_a_deep_row_is_no_row(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("[" * 200_000 + "\n" + json.dumps(row()) + "\n")
    with pytest.raises(DataError, match="Line 1 of .* is not a result row"):
        read_rows(tmp_path)


def test_numbers_beyond_all_measure_are_left_out() -> None:
    rows = halves("mmrl", "dtd", 1, 80.0, 60.0, train_seconds=10**400, parameters=1e308, peak_memory_mb=float("inf"))
    assert "1e+" not in markdown(build(rows))


def test_escapes_and_markup_in_rows_stay_text() -> None:
    evil = f'{ESCAPE}<img src=x onerror=alert(1)>](javascript:alert(1))|=cmd()\u202e"'
    rows = halves(evil, evil, 1, 80.0, 60.0, backbone=evil, preset=evil, confusions=[[evil, "b", 3]])
    made = build(rows)
    for text in (markdown(made), latex(made), comma_separated(made)):
        assert all(c.isprintable() or c == "\n" for c in text)
    assert "<img" not in markdown(made)
    assert not re.search(r"(?<!\\)\]\(javascript", markdown(made))
    html = page(made)
    assert "<img src=x" not in html
    assert not re.search(r"<script[^>]*>alert", html)


def test_rows_do_not_choose_which_pictures_are_shown(tmp_path: Path) -> None:
    """Rows of others may name any folder; only what lies below --root comes into the page."""
    for place in ("private/photos", "root/photos"):
        for name in ("a", "b"):
            (tmp_path / place / name).mkdir(parents=True)
            Image.new("RGB", (9, 9)).save(tmp_path / place / name / "1.png")
    example = {"key": "a/1.png", "truth": "a", "guess": "b", "probability": 0.5}

    def shown(dataset: str, root: Path | None) -> int:
        return page(build(halves("mmrl", dataset, 1, 80.0, 60.0, examples=[example])), root).count("data:image/jpeg")

    root = tmp_path / "root"
    assert shown("photos", root) == 1
    for dataset in (str(tmp_path / "private" / "photos"), "../private/photos"):
        assert shown(dataset, root) == 0
        assert shown(dataset, None) == 0
