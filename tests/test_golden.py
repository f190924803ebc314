"""Losses, outputs, gradients, optimiser steps and final parameters of the published code's runs, within 1e-4.

Every file of `$FEWCLIP_GOLDEN` (default ../shared/golden) is a test; one whose method fewclip does not have is xfail.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from golden import CASES, Golden
from torch import Tensor

FOLDER = Path(os.environ.get("FEWCLIP_GOLDEN", Path(__file__).parents[2] / "shared" / "golden"))
FILES = sorted(FOLDER.glob("*.safetensors")) if FOLDER.is_dir() else []
TOLERANCE = 1e-4


def check(kind: str, ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    missing = sorted(set(theirs) - set(ours))
    assert not missing, f"{kind}: not computed: {missing}"
    for name, expected in theirs.items():
        assert ours[name].shape == expected.shape, f"{kind}.{name}"
        error = float((ours[name].detach() - expected).norm()) / max(1.0, float(expected.norm()))
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
    case = CASES[name](golden)

    check("zero_shot", case.zero_shot(), golden.group("zero_shot."))
    out = case.method.loss(case.images, case.labels)
    check("out", case.outputs(out), golden.group("out."))
    out["loss"].backward()
    gradients = golden.group("grad.")
    check("grad", case.named(list(gradients), gradients=True), gradients)

    optimizer, losses = case.optimizer(), []
    for _ in range(golden.meta["steps"]):
        optimizer.zero_grad()
        loss = case.method.loss(case.images, case.labels)["loss"]
        losses.append(loss.detach())
        loss.backward()
        optimizer.step()
    check("train", {"losses": torch.stack(losses)}, golden.group("train."))
    final = golden.group("final.")
    check("final", case.named(list(final), gradients=False), final)
    check("eval", case.evaluate(), golden.group("eval."))
