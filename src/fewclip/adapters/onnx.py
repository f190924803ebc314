"""An adapter as ONNX graphs, which run without Python or torch.

`export` traces `Method.scores` with the candidates folded in, so that whatever a method computes from the classes alone
(prompts, tokens, caches, the fusion of trained classes) is a constant of the graph. Every graph is run by onnxruntime on random
pixels, and refused if its probabilities differ from torch's. Needs the extra `export`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fewclip.adapters.adapter import Adapter
from fewclip.adapters.graph import ExportError, difference, graph_of
from fewclip.clip.load import fingerprint
from fewclip.clip.prompts import Prompts
from fewclip.data.names import key
from fewclip.errors import OutputError
from fewclip.files.write import as_json, write_files
from fewclip.methods.classes import ClassTexts
from fewclip.version import __version__

__all__ = ["ExportError", "Exported", "export", "token_ids"]
NEEDED = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Exported:
    """The files of an export, and how far their probabilities were from torch's."""

    files: list[Path]
    """In the order in which they were written."""
    error: float
    """Largest difference of a probability from torch's."""


class ImagePart(nn.Module):
    """Pixels to probabilities over classes whose features are an input."""

    mean: Tensor
    std: Tensor

    def __init__(self, adapter: Adapter, raw: bool) -> None:
        super().__init__()
        self.method, self.clip, self.raw = adapter.method, adapter.clip, raw
        preprocess = adapter.clip.preprocess
        self.register_buffer("mean", torch.tensor(preprocess.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(preprocess.std)[:, None, None])

    def normalise(self, pixels: Tensor) -> Tensor:
        return (pixels.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std

    def forward(self, pixels: Tensor, classes: Any, seen: Tensor) -> Tensor:
        return self.method.scores(self.normalise(pixels) if self.raw else pixels, classes, seen).float().softmax(dim=-1)


class Whole(ImagePart):
    """Pixels to probabilities over the adapter's classes."""

    def __init__(self, adapter: Adapter, raw: bool) -> None:
        super().__init__(adapter, raw)
        self.encoded, self.seen = adapter.candidates()

    def forward(self, pixels: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(pixels, self.encoded, self.seen)


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
        self.labels = torch.full((tokens.shape[0],), -1)  # names that are given when the graph runs have none

    def __len__(self) -> int:
        return self.given.shape[0]

    def prompts(self, sentence: str) -> Prompts:
        return Prompts(self.given, self.given.argmax(dim=1), 1)

    @cached_property
    def name_lengths(self) -> Tensor:  # type: ignore[override]
        raise ExportError("the end of a class name can't be found in the tokens of its prompt")


def export(
    adapter: Adapter,
    out: str | Path,
    *,
    dtype: Literal["fp32", "fp16"] = "fp32",
    dynamic_batch: bool = False,
    pixels: Literal["raw", "normalised"] = "raw",
    parts: bool = False,
) -> Exported:
    """Write an adapter as `out` (.onnx) and its description (.json).

    Args:
        adapter: what to export; on the CPU.
        out: the graph's file.
        dtype: precision of weights and sums; input and output keep theirs.
        dynamic_batch: whether the graph takes any number of images, not one.
        pixels: input as uint8 (batch, size, size, 3), or as normalised floats (batch, 3, size, size).
        parts: also write the two towers as graphs, and the tokenizer, for classes that are named when the graph runs.

    Raises:
        OutputError: the extra is not installed, or the files can't be written.
        ExportError: the method can't be computed by a graph, or the graph's probabilities are not torch's.
    """
    out = Path(out)
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise OutputError(f"Exporting needs {missing[0]}: pip install 'fewclip[export]'.")
    if out.suffix != ".onnx":
        raise OutputError(f"The output {out} is not an .onnx file: give one with -o, such as model.onnx.")
    if adapter.clip.device.type != "cpu":
        raise ExportError(f"The adapter is on {adapter.clip.device}: load it with device='cpu' to export it.")
    raw, size = pixels == "raw", adapter.clip.config.image_size
    whole = Whole(adapter, raw).eval()
    sentence = _sentence(adapter, whole.encoded) if parts else adapter.template

    def images(count: int) -> Tensor:
        chance = torch.Generator().manual_seed(count)
        bytes_ = torch.randint(0, 256, (count, size, size, 3), generator=chance, dtype=torch.uint8)
        return bytes_ if raw else whole.normalise(bytes_)

    # Tracing takes a dimension of size 1 for a constant, so a free one is traced at 2 and checked at two other sizes.
    batch = {"pixels": {0: torch.export.Dim("batch", max=4096)}} if dynamic_batch else {"pixels": None}
    trace = images(2 if dynamic_batch else 1)
    graphs: dict[Path, bytes] = {}
    errors = []

    def add(path: Path, module: nn.Module, inputs: dict[str, Tensor], shapes: Any, output: str, examples: Any) -> None:
        graphs[path] = graph_of(module, adapter.method.name, inputs, shapes, output, dtype)
        errors.append(difference(graphs[path], module, examples, dtype))

    checked = [{"pixels": images(count)} for count in ((1, 3) if dynamic_batch else (1,))]
    add(out, whole, {"pixels": trace}, batch, "probabilities", checked)
    if parts:
        classes = torch.export.Dim("classes", min=1, max=65536)
        shapes = batch | {"classes": {0: classes}, "seen": {0: classes}}
        given = {"pixels": trace, "classes": whole.encoded, "seen": whole.seen}
        again = given | {"pixels": images(len(trace))}
        tokens = {"tokens": token_ids(adapter, sentence, adapter.classes)}
        one = {"tokens": tokens["tokens"][:1]}
        image, text = (out.with_name(f"{out.stem}-{part}.onnx") for part in ("image", "text"))
        try:
            add(image, ImagePart(adapter, raw).eval(), given, shapes, "probabilities", [again])
            add(text, TextPart(adapter).eval(), tokens, {"tokens": {0: classes}}, "classes", [one, tokens])
        except ExportError as error:
            raise ExportError(
                f"The towers of {adapter.method.name} can't be exported separately, leave --parts out: {error}"
            ) from error
        assert adapter.clip.tokenizer is not None
        graphs[out.with_name(f"{out.stem}-tokenizer.json")] = adapter.clip.tokenizer.to_json().encode()
    # The description comes last, and is deleted first where an export is replaced: next to one, all graphs belong to it.
    about = _description(adapter, dtype, dynamic_batch, pixels) | {"template": sentence}
    files = graphs | {out.with_suffix(".json"): as_json(about)}
    write_files(files, finish=out.with_suffix(".json"))
    return Exported(list(files), max(errors))


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


def token_ids(adapter: Adapter, sentence: str, names: Sequence[str]) -> Tensor:
    """A sentence about classes, int64 (classes, context length), as `model-text.onnx` takes it."""
    tokenizer = adapter.clip.tokenizer
    assert tokenizer is not None
    texts = [sentence.replace("{}", name.replace("_", " ")) for name in names]
    return tokenizer(texts, adapter.clip.config.context_length).long()


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
