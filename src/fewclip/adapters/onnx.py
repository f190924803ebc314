"""An adapted CLIP as ONNX graphs, which run where Python or torch does not.

`export` traces `Method.scores` with the candidates folded in, so whatever a method does with the class features it knows
beforehand (prompts, tokens, caches, the fusion of known classes) is a constant of the graph. Every graph is run by onnxruntime
on random pixels, and refused where its probabilities are not those of torch. Needs the extra `export`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewclip.adapters.adapter import Adapter
from fewclip.clip.load import fingerprint
from fewclip.clip.prompts import Prompts
from fewclip.data.names import key
from fewclip.errors import FewclipError, OutputError
from fewclip.files.write import as_json, write_files
from fewclip.methods.classes import ClassTexts
from fewclip.version import __version__

OPSET = 18
NEEDED = ("onnx", "onnxscript", "onnxruntime")
ATTENTION = F.scaled_dot_product_attention
TOLERANCE = {"fp32": 1e-4, "fp16": 5e-2}
"""How far probabilities may be from those of torch."""


class ExportError(FewclipError):
    """A method or setting that makes no ONNX graph."""


@dataclass(frozen=True)
class Exported:
    """Files of an export, and how far their probabilities were from those of torch."""

    files: list[Path]
    """What was written."""
    error: float
    """Largest difference of a probability from torch's."""


class Whole(nn.Module):
    """Pixels to probabilities over classes that are settled."""

    mean: Tensor
    std: Tensor

    def __init__(self, adapter: Adapter, raw: bool) -> None:
        super().__init__()
        self.method, self.clip = adapter.method, adapter.clip
        self.encoded, self.seen = adapter.candidates()
        self.raw = raw
        preprocess = adapter.clip.preprocess
        self.register_buffer("mean", torch.tensor(preprocess.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(preprocess.std)[:, None, None])

    def normalise(self, pixels: Tensor) -> Tensor:
        return (pixels.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std

    def probabilities(self, pixels: Tensor, classes: Any, seen: Tensor) -> Tensor:
        return self.method.scores(self.normalise(pixels) if self.raw else pixels, classes, seen).float().softmax(dim=-1)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.probabilities(pixels, self.encoded, self.seen)


class ImagePart(Whole):
    """Pixels to probabilities over classes that are given as features."""

    def forward(self, pixels: Tensor, classes: Tensor, seen: Tensor) -> Tensor:  # type: ignore[override]
        return self.probabilities(pixels, classes, seen)


class TextPart(nn.Module):
    """Rows of token ids, each of one sentence about a class, to class features."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self.method, self.clip = adapter.method, adapter.clip

    def forward(self, tokens: Tensor) -> Any:
        return self.method.encode_classes(GivenTokens(tokens))


class GivenTokens(ClassTexts):
    """The input of a graph in place of names. Prompts share only their start token: a graph can't find a longer prefix."""

    def __init__(self, tokens: Tensor) -> None:
        self.template, self.given = "{}", tokens

    def __len__(self) -> int:
        return self.given.shape[0]

    def prompts(self, sentence: str) -> Prompts:
        return Prompts(self.given, self.given.argmax(dim=1), 1)


def export(
    adapter: Adapter,
    out: str | Path,
    *,
    dtype: Literal["fp32", "fp16"] = "fp32",
    dynamic_batch: bool = False,
    pixels: Literal["raw", "normalised"] = "raw",
    parts: bool = False,
) -> Exported:
    """Write `out` (.onnx), its description (.json), and with `parts` the two towers and the tokenizer.

    The description is written last; where an export is replaced it is deleted first, so that a graph beside one is its own.

    Raises:
        OutputError: the extra is not installed, or the place can't be written to.
        ExportError: what the method computes makes no graph, or one with other answers.
    """
    out = Path(out)
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise OutputError(f"Exporting needs {missing[0]}: pip install 'fewclip[export]'.")
    if out.suffix != ".onnx":
        raise OutputError(f"The output {out} is no .onnx file: give one with -o, such as model.onnx.")
    if adapter.clip.device.type != "cpu":
        raise ExportError(f"The adapter is on {adapter.clip.device}: load it with device='cpu' to export it.")
    raw, size = pixels == "raw", adapter.clip.config.image_size
    whole = Whole(adapter, raw).eval()
    sentence = _sentence(adapter, whole.encoded) if parts else adapter.template

    def images(count: int) -> Tensor:
        chance = torch.Generator().manual_seed(count)
        bytes_ = torch.randint(0, 256, (count, size, size, 3), generator=chance, dtype=torch.uint8)
        return bytes_ if raw else whole.normalise(bytes_)

    batch = {"pixels": {0: torch.export.Dim("batch", max=4096)}} if dynamic_batch else {"pixels": None}
    trace = images(2 if dynamic_batch else 1)
    data = _graph(whole, adapter.method.name, {"pixels": trace}, batch, "probabilities", dtype)
    error = _check(data, whole, [{"pixels": images(n)} for n in ((1, 3) if dynamic_batch else (1,))], dtype)
    graphs = {out: data}
    if parts:
        names = {"image": out.with_name(f"{out.stem}-image.onnx"), "text": out.with_name(f"{out.stem}-text.onnx")}
        image, text = ImagePart(adapter, raw).eval(), TextPart(adapter).eval()
        classes = torch.export.Dim("classes", min=1, max=65536)
        shapes = batch | {"classes": {0: classes}, "seen": {0: classes}}
        given = {"pixels": trace, "classes": whole.encoded, "seen": whole.seen}
        graphs[names["image"]] = _graph(image, adapter.method.name, given, shapes, "probabilities", dtype)
        error = max(error, _check(graphs[names["image"]], image, [given | {"pixels": images(len(trace))}], dtype))
        tokens = _tokens(adapter, sentence, adapter.classes)
        free = {"tokens": {0: classes}}
        graphs[names["text"]] = _graph(text, adapter.method.name, {"tokens": tokens}, free, "classes", dtype)
        error = max(error, _check(graphs[names["text"]], text, [{"tokens": tokens[:1]}, {"tokens": tokens}], dtype))
    if parts:
        assert adapter.clip.tokenizer is not None
        graphs[out.with_name(f"{out.stem}-tokenizer.json")] = adapter.clip.tokenizer.to_json().encode()
    about = _description(adapter, dtype, dynamic_batch, pixels) | {"template": sentence}
    files = graphs | {out.with_suffix(".json"): as_json(about)}
    write_files(files, finish=out.with_suffix(".json"))
    return Exported(list(files), error)


def attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0, is_causal: bool = False
) -> Tensor:
    """`F.scaled_dot_product_attention` for any number of dimensions; the exporter knows four alone."""
    if q.ndim == 4:
        return ATTENTION(q, k, v, attn_mask=attn_mask, is_causal=is_causal)
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    if is_causal:
        attn_mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    return scores.softmax(dim=-1) @ v


def _sentence(adapter: Adapter, encoded: Any) -> str:
    """The sentence whose tokens the method turns into a class's features.

    Raises:
        ExportError: it needs several, or something else than a row of features for each class.
    """
    texts = ClassTexts(adapter.classes, adapter.template, adapter.clip.tokenizer, adapter.clip.config.context_length)
    with torch.no_grad():
        matrix = isinstance(encoded, Tensor) and encoded.ndim == 2 and len(encoded) == len(texts)
        if matrix and adapter.takes_new:
            adapter.method.encode_classes(texts)
    if len(texts.sentences) != 1:
        raise ExportError(
            f"{adapter.method.name} does not make a class's features from one sentence, so its towers can't be exported "
            "as parts: leave --parts out."
        )
    return texts.sentences[0]


def _tokens(adapter: Adapter, sentence: str, names: Sequence[str]) -> Tensor:
    tokenizer = adapter.clip.tokenizer
    assert tokenizer is not None
    texts = [sentence.replace("{}", name.replace("_", " ")) for name in names]
    return tokenizer(texts, adapter.clip.config.context_length).long()


def _graph(
    module: nn.Module, method: str, inputs: Mapping[str, Tensor], shapes: Mapping[str, Any], output: str, dtype: str
) -> bytes:
    """The graph of a module, as the bytes of an ONNX file."""
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad(), patch.object(F, "scaled_dot_product_attention", attention):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module, tuple(inputs.values()), dynamo=True, dynamic_shapes=dict(shapes), input_names=list(inputs),
                output_names=[output], opset_version=OPSET, verbose=False, external_data=False,
            )  # fmt: skip
        assert program is not None
        model = program.model_proto
        if dtype == "fp16":
            from onnxruntime.transformers.float16 import convert_float_to_float16

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # numbers that half precision holds as 0
                model = convert_float_to_float16(model, keep_io_types=True)
        return bytes(model.SerializeToString())
    except Exception as error:  # torch raises whatever its tracing led to
        first: BaseException = error
        while first.__cause__ is not None:
            first = first.__cause__
        reason = (str(first).strip() or type(first).__name__).split("\n")[0]
        if type(first).__name__ == "GuardOnDataDependentSymNode":
            reason = "how many steps it takes depends on the images"
        raise ExportError(
            f"{method} can't be exported: what it computes makes no ONNX graph ({reason[:200]})."
        ) from error
    finally:
        quiet.setLevel(level)


def _check(data: bytes, module: nn.Module, examples: Sequence[Mapping[str, Tensor]], dtype: str) -> float:
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
            (found,) = session.run(None, {name: tensor.numpy() for name, tensor in example.items()})
            worst = max(worst, float(np.abs(found - expected).max()))
    except Exception as error:  # onnxruntime's exceptions have no common class
        raise ExportError(f"The graph does not run: {str(error).splitlines()[0][:200]}.") from error
    if not worst <= TOLERANCE[dtype]:
        raise ExportError(
            f"The graph's answers differ from torch's by {worst:.2g}, more than {TOLERANCE[dtype]:g} allowed."
        )
    return worst


def _description(adapter: Adapter, dtype: str, dynamic_batch: bool, pixels: str) -> dict[str, Any]:
    clip, preprocess = adapter.clip, adapter.clip.preprocess
    trained = {key(name) for name in adapter.trained_classes}
    size = preprocess.image_size
    return {
        "classes": adapter.classes,
        "trained": [key(name) in trained for name in adapter.classes],
        "template": adapter.template,
        "context_length": clip.config.context_length,
        "pixels": {
            "input": "uint8, RGB, 0 to 255" if pixels == "raw" else "float32, RGB, (value / 255 - mean) / std",
            "shape": ["batch" if dynamic_batch else 1, *((size, size, 3) if pixels == "raw" else (3, size, size))],
            "size": size,
            "resize": "both sides to size" if preprocess.squash else "shorter side to size, central crop",
            "interpolation": "bicubic, antialiased",
            "mean": preprocess.mean,
            "std": preprocess.std,
        },
        "dtype": dtype,
        "method": adapter.method.name,
        "backbone": clip.name or "unnamed",
        "backbone_fingerprint": fingerprint(clip),
        "fewclip_version": __version__,
    }
