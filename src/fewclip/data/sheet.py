"""A sheet of images with the predictions of several methods, as one picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from fewclip.clip.preprocess import read_image
from fewclip.files.write import write_bytes

INK, PALE, RIGHT, WRONG, PAPER = "#1d1d1f", "#6e6e73", "#1a7f37", "#c0392b", "#ffffff"
CELL, IMAGE, LINE, MARGIN = 196, 112, 19, 24


@dataclass(frozen=True)
class Sample:
    """An image, its class, and each method's prediction."""

    image: Any
    truth: str
    guesses: Sequence[tuple[str, str]]
    """(method, class name)"""


def sheet(title: str, rows: Sequence[tuple[str, Sequence[Sample]]], path: Path) -> None:
    """Rows of samples, each with a heading, in the format of the file's ending, or else as a PNG.

    Raises:
        OutputError: the place can't be written to.
    """
    columns = max(len(samples) for _, samples in rows)
    lines = 1 + max(len(s.guesses) for _, samples in rows for s in samples)
    height = IMAGE + 10 + LINE * lines + 22
    canvas = Image.new("RGB", (2 * MARGIN + CELL * columns, MARGIN + 44 + len(rows) * (height + 34)), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, MARGIN - 4), title, INK, ImageFont.load_default(22))
    y = MARGIN + 44
    for heading, samples in rows:
        draw.text((MARGIN, y), heading, PALE, ImageFont.load_default(16))
        y += 28
        for column, sample in enumerate(samples):
            _cell(canvas, draw, MARGIN + column * CELL, y, sample)
        y += height + 6
    data = io.BytesIO()
    kind = Image.registered_extensions().get(path.suffix.lower(), "")
    canvas.save(data, kind if kind in Image.SAVE else "PNG")
    write_bytes(path, data.getvalue())


def _cell(canvas: Image.Image, draw: ImageDraw.ImageDraw, x: int, y: int, sample: Sample) -> None:
    picture = read_image(sample.image)
    picture.thumbnail((IMAGE, IMAGE), Image.Resampling.BICUBIC)
    canvas.paste(ImageOps.contain(picture, (IMAGE, IMAGE)), (x, y))  # enlarges one that is smaller
    y += IMAGE + 8
    draw.text((x, y), _short(sample.truth, 22), INK, ImageFont.load_default(14))
    for method, guess in sample.guesses:
        y += LINE
        colour = RIGHT if guess == sample.truth else WRONG
        draw.text((x, y), _short(f"{method}: {guess}", 27), colour, ImageFont.load_default(12))


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
