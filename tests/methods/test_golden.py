"""Losses, outputs, gradients, optimiser steps and final parameters of the published code's runs, within 1e-4.

Every file of tests/golden is a test, and so is every file of the folders that `FEWCLIP_GOLDEN` names. One whose method
fewclip does not have is expected to fail. The format is described in tests/golden/README.md.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import golden_files
import pytest
import torch
from golden import Golden
from golden_cases import CASES
from torch import Tensor

FOLDERS = golden_files.folders()
FILES = golden_files.files(FOLDERS)
TOLERANCE = 1e-4
SMALLEST = 1e-9
"""Below this a deviation is rounding, however small the reference is."""
QUOTED, RELATIVE = "‖Δ‖ / max(1, ‖ref‖)", "‖Δ‖ / ‖ref‖"


class Comparison:
    """Compares results, and remembers the largest deviations."""

    def __init__(self) -> None:
        self.largest = {QUOTED: 0.0, RELATIVE: 0.0}

    def __call__(self, kind: str, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
        missing = sorted(set(theirs) - set(ours))
        assert not missing, f"{kind}: not computed: {missing}"
        for name, expected in theirs.items():
            assert ours[name].shape == expected.shape, f"{kind}.{name}"
            error = float((ours[name].detach() - expected).float().norm())
            size = float(expected.float().norm())
            deviations = {QUOTED: error / max(1.0, size)}
            if error > SMALLEST:
                deviations[RELATIVE] = error / size if size else float("inf")
            for measure, deviation in deviations.items():
                assert deviation <= TOLERANCE, f"{kind}.{name}: {measure} = {deviation:.2e}"
                self.largest[measure] = max(self.largest[measure], deviation)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_folder_holds_files(folder: Path) -> None:
    assert folder.is_dir(), f"there is no folder {folder} (FEWCLIP_GOLDEN)"
    assert list(folder.glob("*.safetensors")), f"{folder} holds no .safetensors file"


def test_every_run_of_the_repository_is_there() -> None:
    digests = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in golden_files.HERE.glob("*.safetensors")
    }
    assert digests == golden_files.listed()
    assert len(digests) == 30


@pytest.mark.parametrize("path", FILES.values(), ids=FILES)
def test_golden(path: Path, request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> None:
    golden = Golden(path).read()
    name = golden.meta["method"]
    if name not in CASES:
        request.applymarker(pytest.mark.xfail(reason=f"fewclip does not have {name} yet", strict=True))
        raise AssertionError(name)
    compare = Comparison()
    for run in CASES[name].runs(golden):
        CASES[name](run).verify(compare)
    for measure, deviation in compare.largest.items():
        record_property(measure, deviation)


@pytest.mark.parametrize(
    ("ours", "theirs", "measure"),
    [
        ([1.0002, 0.0], [1.0, 0.0], QUOTED),
        ([1.0002e-3, 0.0], [1e-3, 0.0], RELATIVE),  # the quoted measure alone lets a small tensor be anything
        ([1e-6, 0.0], [0.0, 0.0], RELATIVE),
    ],
)
def test_a_deviation_is_found(ours: list[float], theirs: list[float], measure: str) -> None:
    compare = Comparison()
    compare("out", {"x": torch.tensor(theirs)}, {"x": torch.tensor(theirs)})
    assert compare.largest == {QUOTED: 0.0, RELATIVE: 0.0}
    with pytest.raises(AssertionError) as failure:
        compare("out", {"x": torch.tensor(ours)}, {"x": torch.tensor(theirs)})
    assert f"out.x: {measure} = " in str(failure.value)


def test_further_folders(tmp_path: Path) -> None:
    more = tmp_path / "more"
    more.mkdir()
    (more / "coop.safetensors").touch()
    named = golden_files.folders(f"{more}{os.pathsep}{tmp_path / 'absent'}")
    assert named == [golden_files.HERE, more, tmp_path / "absent"]
    assert golden_files.files(named)["more/coop"] == more / "coop.safetensors"
    test_folder_holds_files(more)
    with pytest.raises(AssertionError, match="there is no folder"):
        test_folder_holds_files(named[-1])
    (more / "coop.safetensors").unlink()
    with pytest.raises(AssertionError, match="holds no .safetensors file"):
        test_folder_holds_files(more)


def test_summary() -> None:
    def report(name: str, **properties: float) -> SimpleNamespace:
        return SimpleNamespace(
            nodeid=f"tests/methods/{golden_files.TEST}{name}]", user_properties=[*properties.items()]
        )

    assert golden_files.summary({"passed": [SimpleNamespace(nodeid="tests/other.py::test", user_properties=[])]}) == []
    passed = [report("coop", size=1e-6), report("tcp", size=3e-6)]
    lines = golden_files.summary({"passed": passed, "xfailed": [report("clap")]})
    assert lines[0] == "golden runs: 2 equal ours, 0 differ, 1 are of methods that fewclip does not have."
    assert lines[1] == "  largest deviations: size = 3.0e-06"
    assert lines[2].endswith("tests/golden: 30 files, 0 absent")
