"""Losses, outputs, gradients, optimiser steps and final parameters of the published code's runs, within 1e-4.

Every file of `$FEWCLIP_GOLDEN` (default ../shared/golden) is a test; one whose method fewclip does not have is xfail.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from golden import Golden
from golden_cases import CASES
from torch import Tensor

FOLDER = Path(os.environ.get("FEWCLIP_GOLDEN", Path(__file__).parents[3] / "shared" / "golden"))
FILES = sorted(FOLDER.glob("*.safetensors")) if FOLDER.is_dir() else []
TOLERANCE = 1e-4


def check(kind: str, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    missing = sorted(set(theirs) - set(ours))
    assert not missing, f"{kind}: not computed: {missing}"
    for name, expected in theirs.items():
        assert ours[name].shape == expected.shape, f"{kind}.{name}"
        error = float((ours[name].detach() - expected).float().norm()) / max(1.0, float(expected.float().norm()))
        assert error <= TOLERANCE, f"{kind}.{name} is off by {error:.2e}"


def test_folder_holds_files() -> None:
    if not FOLDER.is_dir():
        pytest.skip(f"no golden runs: {FOLDER} is absent (set FEWCLIP_GOLDEN)")
    assert FILES, f"{FOLDER} holds no .safetensors file"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden(path: Path, request: pytest.FixtureRequest) -> None:
    golden = Golden(path).read()
    name = golden.meta["method"]
    if name not in CASES:
        request.applymarker(pytest.mark.xfail(reason=f"fewclip does not have {name} yet", strict=True))
        raise AssertionError(name)
    for run in CASES[name].runs(golden):
        CASES[name](run).verify(check)
