"""Products of frozen layers against torch's own, for every kind of input that a tower meets."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fewclip.clip import kernels

SHAPES = [(3, 8), (2, 3, 8), (0, 8), (2, 0, 3, 8), (8,)]


def reference(x: Tensor, inner: nn.Linear, outer: nn.Linear, quick: bool) -> Tensor:
    hidden = nn.functional.linear(x, inner.weight, inner.bias)
    hidden = hidden * torch.sigmoid(1.702 * hidden) if quick else nn.functional.gelu(hidden)
    return nn.functional.linear(hidden, outer.weight, outer.bias)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_torch(shape: tuple[int, ...], quick: bool, trained: bool, dtype: torch.dtype) -> None:
    inner, outer = nn.Linear(8, 12, dtype=dtype), nn.Linear(12, 8, dtype=dtype)
    for p in [*inner.parameters(), *outer.parameters()]:
        p.requires_grad_(trained)
    x = torch.randn(shape, dtype=dtype, requires_grad=True)
    ours, theirs = kernels.mlp(x, inner, outer, quick), reference(x, inner, outer, quick)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(torch.autograd.grad(ours.sum(), x), torch.autograd.grad(theirs.sum(), x), strict=True):
        torch.testing.assert_close(a, b)  # a gradient of stride 0
    with torch.no_grad():
        torch.testing.assert_close(kernels.mlp(x, inner, outer, quick), theirs)
        rows = inner.weight[4:8]
        torch.testing.assert_close(kernels.linear(x, rows, None), nn.functional.linear(x, rows))


def test_a_trained_weight_gets_its_gradient() -> None:
    layer = kernels.Linear(8, 4)
    layer(torch.randn(3, 8)).sum().backward()
    assert layer.weight.grad is not None
    assert layer.bias.grad is not None


def test_this_torch_has_the_fast_product() -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch was built without oneDNN")
    assert kernels._onednn is not None
