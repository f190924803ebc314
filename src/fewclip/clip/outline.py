"""Models without numbers: the shapes that a configuration or an adapter's settings ask for, in hardly any time or memory.

torch's `meta` device does this by itself, but finds the shapes of arithmetic, `repeat` and `stack` by its compiler, whose
import takes seconds. What constructors do most is therefore answered here; the rest is left to torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@contextmanager
def outline() -> Iterator[None]:
    """Modules that are made in this context have shapes, but neither storage nor values.

    A constructor that reads a tensor's values fails here, with NotImplementedError or RuntimeError.
    """
    with torch.device("meta"), _Shapes():
        yield


class _Shapes(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return ANSWERS.get(func, func)(*args, **(kwargs or {}))


def _same(tensor: Tensor, *_: Any, **__: Any) -> Tensor:
    return tensor


def _drawn(*shape: Any, generator: Any = None, **kwargs: Any) -> Tensor:
    return torch.empty(*shape, **kwargs)


def _broadcast(*args: Any) -> Tensor:
    return torch.broadcast_tensors(*(arg for arg in args if isinstance(arg, Tensor)))[0]


def _norm(tensor: Tensor, p: Any = "fro", dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    if keepdim and isinstance(dim, int) and dtype is None:
        return tensor.narrow(dim, 0, 1)
    return tensor.norm(p, dim, keepdim, dtype)


def _repeat(tensor: Tensor, *times: Any) -> Tensor:
    counts = times[0] if isinstance(times[0], Sequence) else times
    shape = [1] * (len(counts) - tensor.ndim) + list(tensor.shape)
    return tensor.new_empty([count * size for count, size in zip(counts, shape, strict=True)])


def _stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    first = tensors[0].unsqueeze(dim)
    if any(tensor.shape != tensors[0].shape for tensor in tensors):
        raise RuntimeError("stack expects tensors of one shape")
    return first.expand([len(tensors) if axis == dim % first.ndim else -1 for axis in range(first.ndim)])


ANSWERS: dict[Any, Callable[..., Tensor]] = {
    **dict.fromkeys((Tensor.normal_, Tensor.uniform_, Tensor.log, nn.init.normal_, nn.init.uniform_), _same),
    nn.init.kaiming_uniform_: _same,
    **dict.fromkeys((torch.randn, torch.rand), _drawn),
    **dict.fromkeys((Tensor.add, Tensor.sub, Tensor.mul, Tensor.div), _broadcast),
    Tensor.norm: _norm,
    Tensor.repeat: _repeat,
    torch.stack: _stack,
}
"""Functions of torch, and what gives results of the same shape."""
