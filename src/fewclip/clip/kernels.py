"""A reader on a GPU can skip this file: it is the arithmetic of frozen layers on a CPU, `torch.nn`'s with less memory traffic.

Three savings, none of which changes a formula:

* On a CPU, products with a frozen float32 weight go to oneDNN, which ships inside torch and writes its kernels for the
  processor it finds. torch's own `F.linear` calls MKL, which keeps its fast kernels for Intel's processors.
* A frozen weight has no gradient, so a layer need not keep its input: an MLP keeps only its pre-activations.
* x · sigmoid(a x) = silu(a x) / a, and a can be multiplied onto the MLP's narrow input and output.

Where a weight or bias is trained, under autocast, on other devices and in other precisions, plain torch computes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float

QUICK = 1.702
"""QuickGELU is x · sigmoid(1.702 x)."""


def _find_onednn() -> Any:
    """oneDNN's linear layer, the operator that `torch.compile` uses on CPUs; None if this torch lacks it."""
    if not torch.backends.mkldnn.is_available():
        return None
    try:
        operator = torch.ops.mkldnn._linear_pointwise.default
    except (AttributeError, RuntimeError):
        return None
    # It is not public: only a version whose arguments are known is used.
    names = [argument.name for argument in operator._schema.arguments]
    return operator if names == ["X", "W", "B", "attr", "scalars", "algorithm"] else None


_onednn = _find_onednn()


def _is_fast(x: Tensor, *frozen: Tensor) -> bool:
    """Whether oneDNN computes: float32 on a CPU, nothing trained but x, no mode of torch that rewrites operators."""
    return (
        _onednn is not None
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() > 0
        and all(t.dtype == torch.float32 for t in frozen)
        and not torch.is_autocast_enabled("cpu")
        and not (torch.compiler.is_compiling() or torch.jit.is_tracing())  # type: ignore[attr-defined]
        and not (torch.is_grad_enabled() and any(t.requires_grad for t in frozen))
    )


def linear(x: Float[Tensor, "*n wide"], weight: Float[Tensor, "out wide"], bias: Tensor | None) -> Tensor:
    """`F.linear`."""
    if not _is_fast(x, weight, *(() if bias is None else (bias,))):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and x.requires_grad:
        out: Tensor = _FrozenLinear.apply(x, weight, bias)
        return out
    return _product(x, weight, bias)


def mlp(
    x: Float[Tensor, "*n width"], inner: nn.Linear, outer: nn.Linear, quick_gelu: bool
) -> Float[Tensor, "*n width"]:
    """outer(gelu(inner(x)))."""
    # Three ways: plain torch where anything but x is trained; with gradient, a function that keeps little; without, in place.
    weights = (inner.weight, inner.bias, outer.weight, outer.bias)
    if not _is_fast(x, *weights):
        hidden = inner(x)
        return outer(hidden * torch.sigmoid(QUICK * hidden) if quick_gelu else F.gelu(hidden))
    if torch.is_grad_enabled() and x.requires_grad:
        out: Tensor = _FrozenMLP.apply(x, *weights, quick_gelu)
        return out
    if quick_gelu:  # x · sigmoid(1.702 x) = silu(1.702 x) / 1.702: both factors go to the narrow ends
        hidden = _product(x * QUICK, inner.weight, inner.bias * QUICK, "swish")
        return _product(hidden, outer.weight, outer.bias * QUICK).mul_(1 / QUICK)
    return _product(_product(x, inner.weight, inner.bias, "gelu"), outer.weight, outer.bias)


class Linear(nn.Linear):
    """`nn.Linear` by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, then: str = "none") -> Tensor:
    """activation(x weightᵀ + bias)."""
    out: Tensor = _onednn(x, weight, bias, then, [], "none" if then == "gelu" else "")
    return out


class _FrozenLinear(torch.autograd.Function):
    """A linear layer that keeps only its weight for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _product(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return _product(grad, weight.t(), None), None, None


class _FrozenMLP(torch.autograd.Function):
    """Two linear layers and what is between, keeping the pre-activations (times 1.702 with QuickGELU)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, quick_gelu: bool) -> Tensor:
        ctx.quick_gelu = quick_gelu
        if quick_gelu:
            hidden = _product(x * QUICK, w1, b1 * QUICK)
            out = _product(F.silu(hidden), w2, b2 * QUICK).mul_(1 / QUICK)
        else:
            hidden = _product(x, w1, b1)
            out = _product(F.gelu(hidden), w2, b2)
        ctx.save_for_backward(hidden, w1, w2)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, w1, w2 = ctx.saved_tensors
        grad = _product(grad, w2.t(), None)
        backward = torch.ops.aten.silu_backward if ctx.quick_gelu else torch.ops.aten.gelu_backward
        # QuickGELU's two factors, 1.702 before and 1/1.702 after, cancel in the derivative.
        return _product(backward(grad, hidden), w1.t(), None), None, None, None, None, None
