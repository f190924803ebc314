"""`fewclip export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fewclip.cli.options import Adapter, listed


@dataclass(frozen=True, kw_only=True)
class Export:
    adapter: Adapter
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FILE.onnx")]
    """Graph to write; a description with the classes is written next to it, as FILE.json."""
    dtype: Literal["fp32", "fp16"] = "fp32"
    """Precision of weights and sums; fp16 is half the size and less exact."""
    dynamic_batch: bool = False
    """Let the graph take any number of images instead of one."""
    pixels: Literal["raw", "normalised"] = "raw"
    """Input: bytes of resized images, (batch, size, size, 3), or normalised floats, (batch, 3, size, size)."""
    parts: bool = False
    """Also write the two towers and the tokenizer, for classes that are named when the graph runs."""
    classes: str | None = None
    """Names of further classes to include in the graph, separated by commas."""
    backbone: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Where the adapter's backbone is now, if not where it was when the adapter was trained."""


def export(arguments: list[str]) -> int:
    """Write an adapter as an ONNX graph from pixels to probabilities, which needs neither fewclip nor torch."""
    options = tyro.cli(Export, prog="fewclip export", description=export.__doc__, args=arguments)
    from fewclip.adapters.adapter import Adapter as Loaded
    from fewclip.adapters.onnx import export as write

    adapter = Loaded.load(options.adapter, backbone=options.backbone, device="cpu")
    if options.classes:
        adapter.add_classes(listed(options.classes))
    done = write(
        adapter,
        options.out,
        dtype=options.dtype,
        dynamic_batch=options.dynamic_batch,
        pixels=options.pixels,
        parts=options.parts,
    )
    for path in done.files:
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    print(
        f"{adapter.method.name}, {len(adapter.classes)} classes; probabilities within {done.error:.0e} of torch's on random "
        "pixels, by onnxruntime."
    )
    return 0
