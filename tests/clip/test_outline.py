"""Models without numbers have the shapes of the models, and need neither memory nor torch's compiler."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from measuring import grown_mb
from small import small_clip, small_config
from torch import Tensor, nn

from fewclip.clip.model import CLIP
from fewclip.clip.outline import outline
from fewclip.methods import METHODS, find


def shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def test_the_outline_of_a_clip() -> None:
    with outline():
        clip = CLIP(small_config())
    assert shapes(clip) == shapes(small_clip())
    assert all(tensor.is_meta for tensor in clip.state_dict().values())


@pytest.mark.parametrize("name", METHODS)
def test_the_outline_of_a_method(name: str) -> None:
    state = torch.get_rng_state()
    with outline():
        method = find(name)(CLIP(small_config()))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(tensor.is_meta for tensor in method.state_dict().values())
    assert shapes(method) == shapes(find(name)(small_clip()))


@pytest.mark.parametrize(
    "compute",
    [
        lambda x, y: 2 * x + y,
        lambda x, y: y - x / 3,
        lambda x, y: x / x.norm(dim=-1, keepdim=True),
        lambda x, y: x / x.norm(dim=0, keepdim=True),
        lambda x, y: x.norm(dim=-1),
        lambda x, y: x.norm(),
        lambda x, y: x.repeat(5, 1, 2),
        lambda x, y: y.repeat([2, 3]),
        lambda x, y: torch.stack([x, x, x]),
        lambda x, y: torch.stack([x, x], -1),
        lambda x, y: torch.stack([x, x], dim=1),
        lambda x, y: torch.cat([x, x]),
        lambda x, y: torch.rand(2, 3, generator=torch.Generator()),
        lambda x, y: torch.randn((2, 3)),
        lambda x, y: nn.init.kaiming_uniform_(x, a=2),
    ],
)  # fmt: skip
def test_shapes_are_those_of_torch(compute: object) -> None:
    assert callable(compute)
    real: Tensor = compute(torch.rand(3, 4), torch.rand(4))
    with outline():
        empty: Tensor = compute(torch.rand(3, 4), torch.rand(4))
    assert empty.is_meta
    assert empty.shape == real.shape
    assert empty.dtype == real.dtype


def test_shapes_that_do_not_fit_are_an_error() -> None:
    with outline():
        with pytest.raises(RuntimeError):
            torch.rand(3) + torch.rand(4)
        with pytest.raises(RuntimeError):
            torch.stack([torch.rand(3), torch.rand(4)])


def test_values_cannot_be_read() -> None:
    with outline(), pytest.raises((NotImplementedError, RuntimeError)):
        torch.rand(3).tolist()


def test_huge_sizes_take_no_memory() -> None:
    def make() -> None:
        with outline():
            assert nn.Linear(10**6, 10**6).weight.repeat(1000, 1).numel() == 10**15

    assert grown_mb(make, ValueError) < 50


def test_the_compiler_is_not_imported() -> None:
    """Its import takes longer than loading an adapter does."""
    code = (
        "import sys; from fewclip.clip.outline import outline; from fewclip.clip.model import CLIP\n"
        "from fewclip.methods import METHODS, find; from small import small_config\n"
        "with outline():\n    made = [find(name)(CLIP(small_config())) for name in METHODS]\n"
        "assert len(made) > 15 and not {'sympy', 'torch._dynamo'} & set(sys.modules)"
    )
    path = os.pathsep.join([str(Path(__file__).parents[1] / "support"), os.environ.get("PYTHONPATH", "")])
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": path})
