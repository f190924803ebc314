"""Anything that holds an image, to an upright RGB image of 8 bits.

By itself, Pillow's `convert("RGB")` gives transparent pixels whatever colour is stored under them, clips 16-bit images to
white, and leaves photos on their side; here they are composed onto white, scaled, and turned by their EXIF tag.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from fewclip.errors import DataError, TooLargeError

Source: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | NDArray[Any] | Tensor"

MAX_PIXELS = 89_478_485  # the number from which Pillow warns of decompression bombs
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "TGA")
"""Pillow's formats that are read. It has more, but EPS starts another program, and others are rare."""
HELPED = ("EPS", "WMF", "GRIB", "BUFR", "HDF5")
"""Formats that Pillow leaves to another program, or to a handler."""
MAX_SCANS = 100
"""Scans of a JPEG, each of which goes through all of its pixels, however few bytes it has. Progressive ones have about ten."""
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")


def read_image(source: Source, *, max_pixels: int = MAX_PIXELS, formats: tuple[str, ...] | None = None) -> Image.Image:
    """An RGB image from a path, the bytes of a file, a PIL image, an array or a tensor.

    Arrays are (H, W) or (H, W, 1|3|4), tensors (1|3|4, H, W); uint8, floats in [0, 1], or (arrays) uint16.
    Of an animation the first frame is read. `formats`: of files only these of Pillow's formats, by default `FORMATS`.

    Raises:
        DataError: it can't be read, is damaged or truncated, has more than `max_pixels` pixels, or an array's shape or
            values are none of the above. The message names the path.
    """
    if isinstance(source, Image.Image):
        return _guard("The PIL image", lambda: _upright_rgb(_checked(source, max_pixels)))
    if isinstance(source, np.ndarray):
        return _guard("The image array", lambda: _from_array(source))
    if isinstance(source, Tensor):
        return _guard("The image tensor", lambda: _from_tensor(source))
    if isinstance(source, bytes):
        what = f"The image given as {len(source)} bytes"
        return _guard(what, lambda: _decode(BytesIO(source), max_pixels, formats))
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if not os.path.isfile(path):  # false for a name that a file can't have, too, such as one with a NUL
            problem = "is a folder" if os.path.isdir(path) else "does not exist"
            raise DataError(f"The image file {path} {problem}: give the path of an image.")
        return _guard(f"The image file {path}", lambda: _decode(path, max_pixels, formats))
    raise DataError(
        f"An image was given as {type(source).__name__}; expected a path, bytes, a PIL image, an array or a tensor."
    )


def _guard(what: str, read: Callable[[], Image.Image]) -> Image.Image:
    """Reads, and names what was read in whatever error that leads to."""
    try:
        return read()
    except DataError as error:
        raise type(error)(f"{what} {error}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLargeError(f"{what} is refused as a decompression bomb ({error}): make it smaller.") from error
    except Exception as error:  # Pillow's readers raise whatever a damaged file leads them to
        reason = str(error).split("\n")[0] or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "not an image"
        raise DataError(
            f"{what} can't be read ({reason}): it is damaged, truncated or of an unknown format."
        ) from error


def _decode(file: Path | BytesIO, max_pixels: int, formats: tuple[str, ...] | None) -> Image.Image:
    with Image.open(file, formats=_known(FORMATS if formats is None else formats)) as image:
        _checked(image, max_pixels)  # the header is read, no pixel is decoded yet
        if image.format in ("JPEG", "MPO") and _many_scans(file):
            raise DataError(f"is a JPEG of more than {MAX_SCANS} scans: save it again.")
        image.load()
        rgb = _upright_rgb(image)
        return rgb.copy() if rgb is image else rgb  # a copy, so that the file is closed


@cache
def _known(formats: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the formats that this Pillow was built with."""
    Image.init()
    return tuple(name for name in formats if name in Image.OPEN)


def _checked(image: Image.Image, max_pixels: int) -> Image.Image:
    """The image, if it may be decoded."""
    if image.format in HELPED:
        raise DataError(
            f"is of the format {image.format}, which only other programs can read: convert it, for example to PNG."
        )
    if image.width * image.height > max_pixels:
        raise TooLargeError(
            f"has {image.width} × {image.height} pixels, more than the {max_pixels:,} allowed: "
            "make it smaller, or raise max_pixels."
        )
    return image


def _many_scans(file: Path | BytesIO) -> bool:
    """Whether a JPEG has more than `MAX_SCANS`, by walking from marker to marker up to its end."""
    data = file.getvalue() if isinstance(file, BytesIO) else file.read_bytes()
    place, scans = 2, 0
    while scans <= MAX_SCANS and (found := _MARKER.search(data, place)) is not None and found[1] != b"\xd9":
        scans += found[1] == b"\xda"
        place = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")  # to the end of its segment
    return scans > MAX_SCANS


def _upright_rgb(image: Image.Image) -> Image.Image:
    if image.width * image.height == 0:
        raise DataError("has no pixels.")
    png = image.format == "PNG"  # the format is lost by what follows
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    # Pillow clips wide integers and floats when it converts them: they are scaled by their range instead.
    if image.mode.startswith("I;16"):
        return _grey(np.asarray(image) / 65535)
    if image.mode in ("I", "F"):
        return _grey(_known_range(np.asarray(image), sixteen=png and image.mode == "I"))
    # Onto white, as most drawings and product photos are meant to be seen.
    if image.has_transparency_data:
        if image.mode == "La":  # Pillow has no direct way
            image = image.convert("LA")
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _known_range(values: NDArray[Any], sixteen: bool) -> NDArray[Any]:
    """0 to 1 from Pillow's 32-bit modes, which don't state their range: it is the smallest of 1, 255, 65535 that holds all."""
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 65535):
        raise DataError(f"has values from {low:g} to {high:g}; expected 0 to 1, 0 to 255 or 0 to 65535.")
    if sixteen or high > 255:
        return values / 65535
    return values / (1 if values.dtype.kind == "f" and high <= 1 else 255)


def _grey(values: NDArray[Any]) -> Image.Image:
    return Image.fromarray(_to_bytes(values)).convert("RGB")


def _to_bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Values in [0, 1] as bytes."""
    return np.rint(np.clip(values.astype(np.float64), 0, 1) * 255).astype(np.uint8)


def _from_tensor(tensor: Tensor) -> Image.Image:
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3, 4):
        raise DataError(f"has the shape {tuple(tensor.shape)}; expected (3, height, width).")
    tensor = tensor.detach().cpu().movedim(0, -1)
    return _from_array((tensor.to(torch.float32) if tensor.is_floating_point() else tensor).numpy())


def _from_array(array: NDArray[Any]) -> Image.Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (1, 3, 4)) or array.size == 0:
        raise DataError(f"has the shape {array.shape}; expected (height, width) or, channels last, (height, width, 3).")
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= -1e-3 and high <= 1 + 1e-3):  # written so that NaN fails, too
            raise DataError(
                f"has floats from {low:g} to {high:g}; expected 0 to 1: undo a normalisation, or give uint8."
            )
        array = _to_bytes(array)
    elif array.dtype.kind == "u" and array.dtype.itemsize == 2:
        array = _to_bytes(array / 65535)
    elif array.dtype == np.bool_:
        array = array * np.uint8(255)
    elif array.dtype != np.uint8:
        raise DataError(f"has the type {array.dtype}; expected uint8, uint16, or floats in 0 to 1.")
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    return _upright_rgb(Image.fromarray(np.ascontiguousarray(array)))
