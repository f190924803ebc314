"""One module as an ONNX graph: traced by torch, then run by onnxruntime and compared with the module."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fewclip.errors import FewclipError

OPSET = 18
TOLERANCE = {"fp32": 1e-4, "fp16": 5e-2}
"""Largest difference of a probability from torch's."""


class ExportError(FewclipError):
    """A method or setting that can't be computed by an ONNX graph."""


def graph_of(
    module: nn.Module, method: str, inputs: Mapping[str, Tensor], shapes: Mapping[str, Any], output: str, dtype: str
) -> bytes:
    """The graph of a module, as the bytes of an ONNX file."""
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the tracer, and about numbers that half precision holds as 0
            with torch.no_grad(), PlainAttention():
                program = torch.onnx.export(
                    module, tuple(inputs.values()), dynamo=True, dynamic_shapes=dict(shapes), input_names=list(inputs),
                    output_names=[output], opset_version=OPSET, verbose=False, external_data=False,
                )  # fmt: skip
            assert program is not None
            model = program.model_proto
            if dtype == "fp16":
                from onnxruntime.transformers.float16 import convert_float_to_float16

                model = convert_float_to_float16(model, keep_io_types=True)
        return bytes(model.SerializeToString())
    except Exception as error:  # torch raises whatever its tracing led to
        first: BaseException = error
        while first.__cause__ is not None:
            first = first.__cause__
        reason = (str(first).strip() or type(first).__name__).split("\n")[0]
        if type(first).__name__ == "GuardOnDataDependentSymNode":
            reason = "the steps it takes depend on the values of its input"
        raise ExportError(
            f"{method} can't be exported: what it computes can't be traced to an ONNX graph ({reason[:200]})."
        ) from error
    finally:
        quiet.setLevel(level)


def difference(data: bytes, module: nn.Module, examples: Sequence[Mapping[str, Tensor]], dtype: str) -> float:
    """The largest difference between a graph and its module.

    Raises:
        ExportError: it is too large, or the graph does not run.
    """
    import onnxruntime

    worst = 0.0
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        for example in examples:
            with torch.no_grad():
                expected = module(*example.values()).numpy()
            (answers,) = session.run(None, {name: tensor.numpy() for name, tensor in example.items()})
            worst = max(worst, float(np.abs(answers - expected).max()))
    except Exception as error:  # onnxruntime's exceptions have no common class
        raise ExportError(f"The graph does not run: {str(error).splitlines()[0][:200]}.") from error
    if not worst <= TOLERANCE[dtype]:
        raise ExportError(
            f"The graph's answers differ from torch's by {worst:.2g}; at most {TOLERANCE[dtype]:g} is allowed."
        )
    return worst


class PlainAttention(TorchFunctionMode):
    """While it is entered, attention is computed by products and a softmax, in any number of dimensions: the exporter takes
    `F.scaled_dot_product_attention` only in four."""

    def __torch_function__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        replaced = func is F.scaled_dot_product_attention and args[0].ndim != 4
        return (plain_attention if replaced else func)(*args, **(kwargs or {}))


def plain_attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """Attention of q (..., Q, width) to k and v (..., N, width); `attn_mask` is True where a query may look."""
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    if is_causal:
        attn_mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    return scores.softmax(dim=-1) @ v
