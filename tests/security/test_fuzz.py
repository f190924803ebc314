"""Fuzzing what reads bytes: a value or an error of ours comes of everything, in bounded time and memory.

`FEWCLIP_FUZZ_SECONDS=600 pytest tests/security/test_fuzz.py` takes longer; `make fuzz` counts (docs/security.md).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("hypothesis", reason="hypothesis is not installed")
pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("python_multipart", reason="the extra serve is not installed")
pytest.importorskip("matplotlib", reason="the extra report is not installed")
from fuzz import Count, fuzz
from fuzz_targets import TARGETS, Target, attempt

SECONDS = float(os.environ.get("FEWCLIP_FUZZ_SECONDS", "10"))
NAMES = [target.name for target in TARGETS]


@pytest.mark.parametrize("target", TARGETS, ids=NAMES)
def test_valid_files_are_taken(target: Target, tmp_path: Path) -> None:
    for number, case in enumerate(target.valid()):
        place = tmp_path / str(number)
        place.mkdir()
        assert attempt(target, case, place), number


@pytest.mark.parametrize("target", TARGETS, ids=NAMES)
def test_everything_is_taken_or_refused(target: Target) -> None:
    count = Count()
    fuzz(target, SECONDS * target.share / sum(t.share for t in TARGETS), count, None)
    assert count.examples > 0
    assert not count.crashes, count.crashes
