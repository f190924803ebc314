"""`predict -o`: deaths and full disks at every file operation of a run into one file."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from faulty import Death, Faulty, no_waiting_for_disks  # noqa: F401

from fewclip.clip.model import CLIP
from fewclip.errors import OutputError

pytest.importorskip("fewclip.bulk", reason="this fewclip has no `predict -o`")
scaling = pytest.importorskip("scaling", reason="the helpers of tests/support/scaling.py are not there")
adapter, folder, small_pieces = scaling.adapter, scaling.folder, scaling.small_pieces


@pytest.mark.parametrize("fault", ["death", "torn", "full"])
def test_each_image_has_one_row_whatever_happens(
    fault: str,
    adapter: Path,
    folder: Path,
    tmp_path: Path,
    small_pieces: None,
    backbone: CLIP,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(CLIP, "from_pretrained", lambda name: backbone)
    scaling.make(adapter, folder, tmp_path / "calm.parquet")
    expected = scaling.read(tmp_path / "calm.parquet")
    number, happened = 0, True
    while happened:
        out = tmp_path / "out" / str(number) / "labels.parquet"
        with Faulty(tmp_path / "out", number, fault) as faulty, suppress(Death, OutputError):
            scaling.make(adapter, folder, out)
        happened = faulty.happened
        if out.exists():
            assert scaling.read(out) == expected
        scaling.make(adapter, folder, out)
        assert scaling.read(out) == expected
        work = out.with_name(f".{out.name}.fewclip")
        assert {path.name for path in work.iterdir()} == {"job.json"}
        number += 3 if fault == "torn" else 1
    assert number > 20
