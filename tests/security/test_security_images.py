"""Images that mean harm (docs/security.md)."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import Any

import fuzz_files as files
import numpy as np
import pytest
import torch
from measuring import grown_mb
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fewclip.clip import decode
from fewclip.clip.decode import read_image
from fewclip.clip.preprocess import Preprocess
from fewclip.errors import DataError


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def test_no_other_program_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow gives EPS to Ghostscript: here a program of that name that would leave a mark."""
    marker, program = tmp_path / "marker", tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {marker}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    eps = encoded(Image.new("RGB", (9, 9)), "EPS")
    (tmp_path / "photo.jpg").write_bytes(eps)
    for source in (tmp_path / "photo.jpg", eps, Image.open(io.BytesIO(eps))):
        with pytest.raises(DataError, match=r"can't be read|only other programs can read"):
            read_image(source)
    assert not marker.exists()
    with pytest.raises(OSError, match=r".*"):
        Image.open(io.BytesIO(eps)).load()
    assert marker.exists(), "the mark would have been left"


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_thousands_of_frames(kind: str) -> None:
    """Of an animation one frame is read, however many there are."""
    noise = np.random.default_rng(0).integers(0, 255, (2000, 4, 4, 3)).astype(np.uint8)
    frames = [Image.fromarray(f) for f in noise]
    more = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **more)
    assert len(data) > 50_000
    seeks = []
    found: Image.Image = read_image(data)
    assert found.size == (4, 4)
    assert grown_mb(lambda: seeks.append(read_image(data)), DataError) < 20


def chunks(kind: str) -> bytes:
    picture, info, exif = Image.new("RGB", (9, 9)), PngInfo(), Image.Exif()
    if kind == "a text of 50 MB":
        info.add_text("a", "x" * 50_000_000, zip=True)
    elif kind == "80 texts of 0.9 MB":
        for number in range(80):
            info.add_text(f"a{number}", "x" * 900_000, zip=True)
    elif kind == "a colour profile of 50 MB":
        return encoded(picture, "PNG", icc_profile=bytes(50_000_000))
    elif kind == "a JPEG's profile of 10 MB":
        return encoded(picture, "JPEG", icc_profile=bytes(10_000_000))
    elif kind == "EXIF of 65,535 entries":
        return encoded(
            picture, "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0" * 65535
        )
    else:
        exif[0x010E] = "x" * 60_000
        return encoded(picture, "JPEG", exif=exif)
    return encoded(picture, "PNG", pnginfo=info)


KINDS = ["a text of 50 MB", "80 texts of 0.9 MB", "a colour profile of 50 MB", "a JPEG's profile of 10 MB"]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("kind", [*KINDS, "EXIF of 65,535 entries", "EXIF of 60 kB"])
def test_enormous_chunks(kind: str) -> None:
    data = chunks(kind)
    assert grown_mb(lambda: read_image(data), DataError) < 120


def many_scans(scans: int) -> bytes:
    """A JPEG of 2000 × 2000 pixels with one small scan repeated."""
    data = encoded(Image.new("L", (2000, 2000), 128), "JPEG", progressive=True)
    first = data.find(b"\xff\xda", data.find(b"\xff\xda") + 2)
    second = data.find(b"\xff\xda", first + 2)
    return data[:first] + data[first:second] * scans + data[first:]


def test_a_jpeg_of_thousands_of_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="is a JPEG of more than 100 scans"):
        read_image(many_scans(20_000))
    assert read_image(many_scans(10)).size == (2000, 2000)
    tail = encoded(Image.new("L", (9, 9)), "JPEG") + b"\xff\xda" * 500  # what follows the picture is not part of it
    assert read_image(tail).size == (9, 9)
    monkeypatch.setattr(decode, "MAX_SCANS", 5)
    with pytest.raises(DataError, match="more than 5 scans"):
        read_image(many_scans(1))


@pytest.mark.parametrize("size", [(100_000, 1), (1, 100_000), (1, 1), (30_000, 2)])
def test_long_and_tiny_images(size: tuple[int, int]) -> None:
    preprocess = Preprocess(224)
    picture = Image.new("L", size, 255)
    assert preprocess(picture).shape == (3, 224, 224)
    assert preprocess.augment(picture, torch.Generator().manual_seed(0)).shape == (3, 224, 224)
    assert grown_mb(lambda: preprocess(picture), DataError) < 100


def test_of_a_long_image_the_middle_is_seen() -> None:
    picture = Image.new("RGB", (1000, 2), "red")
    picture.paste((0, 0, 255), (490, 0, 510, 2))
    seen = Preprocess(4, mean=(0, 0, 0), std=(1, 1, 1))(picture)
    assert seen[:, 2, 2].tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    "tail", [b"PK\x03\x04" + bytes(99), b"<script>alert(1)</script>", b"%PDF-1.4", files.PICKLES[0]]
)
def test_what_is_behind_an_image_is_not_looked_at(tail: bytes) -> None:
    data = encoded(Image.new("RGB", (9, 9), "red"), "JPEG", quality=95)
    assert np.array_equal(np.asarray(read_image(data + tail)), np.asarray(read_image(data)))


def test_tiles_larger_than_the_image() -> None:
    """A TIFF of 64 × 64 pixels whose one tile has two thousand million."""
    tags = [(256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 1, 8), (259, 3, 1, 5), (262, 3, 1, 1), (277, 3, 1, 1)]
    tags += [(322, 4, 1, 1 << 16), (323, 4, 1, 1 << 15), (324, 4, 1, 300), (325, 4, 1, 100)]
    described = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    data = b"II*\0" + struct.pack("<I", 8) + described + bytes(400)

    def read() -> None:
        with pytest.raises(DataError, match="can't be read"):
            read_image(data)

    assert grown_mb(read, DataError) < 60
