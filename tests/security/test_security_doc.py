"""docs/security.md: every threat names a test, and every test that it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from fewclip.adapters.disk import LARGEST as WEIGHTS
from fewclip.clip import decode, load, preprocess, weights
from fewclip.clip.decode import MAX_PIXELS
from fewclip.data import paths
from fewclip.data.names import LONGEST
from fewclip.errors import LONGEST as MESSAGE
from fewclip.files.read import MOST

SERVED = 7
PAGE = Path(__file__).parents[2] / "docs" / "security.md"
THREATS = PAGE.read_text(encoding="utf-8").split("\n## Fuzzing")[0]


def rows() -> list[list[str]]:
    lines = [line for line in THREATS.splitlines() if line.startswith("| ") and not line.startswith("| what is sent")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def names_in(file: str) -> set[str]:
    tree = ast.parse(next(Path(__file__).parents[1].rglob(file)).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_threat_names_tests_that_exist() -> None:
    assert len(rows()) > 50
    for cells in rows():
        assert len(cells) == 3, cells
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", cells[2])
        assert named, cells[0]
        for file, name in named:
            assert name in names_in(file), f"{file}::{name}"


def test_every_security_test_is_named() -> None:
    for file in ("test_security.py", "test_security_images.py", "test_security_texts.py", "test_security_http.py"):
        for name in names_in(file):
            if name.startswith("test_") and name not in ELSEWHERE:
                assert f"{file}::{name}" in THREATS, f"{file}::{name}"


ELSEWHERE = {"test_of_a_long_image_the_middle_is_seen", "test_new_names", "test_a_terminal_that_knows_no_unicode"}
"""Tests of what is right, not of what is refused."""


def test_the_limits_are_those_of_the_code() -> None:
    for number in (
        MAX_PIXELS,
        LONGEST,
        MESSAGE,
        paths.LONGEST,
        weights.MOST_TENSORS,
        load.LARGEST,
        load.LARGEST_IMAGE,
    ):
        assert f"{number:,}" in THREATS, number
    assert f"{decode.MAX_SCANS} scans" in THREATS
    assert f"1 to {preprocess.LONGEST_SIDES}" in THREATS
    assert f"{MOST >> 20} MB" in THREATS
    assert f"weights {WEIGHTS >> 30} GB" in THREATS
    words = {7: "seven", 11: "eleven"}
    assert f"{words[len(decode.FORMATS)]} of Pillow's formats are tried, {words[SERVED]} when served" in THREATS
