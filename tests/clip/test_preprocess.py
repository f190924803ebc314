"""Every kind of image becomes upright RGB; resizing, cropping and augmenting are torchvision's, to the pixel."""

from __future__ import annotations

import io
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fewclip.clip.preprocess import MEAN, STD, Preprocess, _random_box, read_image
from fewclip.errors import DataError

WHITE = (255, 255, 255)


def gradient(width: int = 40, height: int = 30) -> Image.Image:
    """Red grows to the right, green downwards."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, (x * 7 + y * 3) % 256], -1).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pixels(image: Image.Image) -> Any:
    assert image.mode == "RGB"
    return np.asarray(image)


# ---- CLIP's numbers


def test_the_mean_and_deviation_are_clips() -> None:
    """As in OpenAI's code, in the order red, green, blue; no other test states them."""
    assert Preprocess(8).mean == (0.48145466, 0.4578275, 0.40821073)
    assert Preprocess(8).std == (0.26862954, 0.26130258, 0.27577711)
    black, white = (Preprocess(2)(Image.new("RGB", (2, 2), colour))[:, 0, 0].tolist() for colour in ("black", "white"))
    assert black == pytest.approx([-1.7922625, -1.7520971, -1.4802198], abs=1e-6)
    assert white == pytest.approx([1.9303361, 2.0748837, 2.1458969], abs=1e-6)


# ---- sources


def test_sources_of_the_same_image(tmp_path: Path) -> None:
    image = gradient()
    image.save(tmp_path / "a.png")
    array = np.asarray(image)
    sources: tuple[Any, ...] = (
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        encoded(image),
        image,
        array,
        array[::-1][::-1],
        array.astype(np.float32) / 255,
        array / 255,
        array.astype(np.uint16) * 257,
        torch.from_numpy(array.copy()).permute(2, 0, 1),
        torch.from_numpy(array / 255).permute(2, 0, 1).requires_grad_(),
        torch.from_numpy(np.dstack([array, np.full(array.shape[:2], 255, np.uint8)])).permute(2, 0, 1),
    )
    for source in sources:
        assert np.array_equal(pixels(read_image(source)), array)


def test_grey_arrays() -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    expected = np.dstack([grey] * 3)
    for source in (grey, grey[..., None], torch.from_numpy(grey)[None], grey / 255):
        assert np.array_equal(pixels(read_image(source)), expected)
    assert np.array_equal(pixels(read_image(grey > 100))[..., 0], np.where(grey > 100, 255, 0))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((3, 8, 8), np.uint8), r"image array has the shape \(3, 8, 8\); expected .*channels last"),
        (np.zeros((8, 8, 2), np.uint8), r"has the shape \(8, 8, 2\)"),
        (np.zeros((0, 8, 3), np.uint8), r"has the shape \(0, 8, 3\)"),
        (np.zeros(8, np.uint8), r"has the shape \(8,\)"),
        (np.full((2, 2), 255.0), "has floats from 255 to 255; expected 0 to 1: undo a normalisation, or give uint8"),
        (np.full((2, 2), np.nan), "has floats from nan to nan"),
        (np.full((2, 2), -1.0), "has floats from -1 to -1"),
        (np.zeros((2, 2), np.int64), "has the type int64; expected uint8, uint16, or floats"),
        (np.zeros((2, 2), object), "has the type object"),
        (torch.zeros(8, 8, 3), r"image tensor has the shape \(8, 8, 3\); expected \(3, height, width\)"),
        (torch.zeros(1, 3, 8, 8), r"has the shape \(1, 3, 8, 8\)"),
        (torch.full((3, 2, 2), 2.0), "image tensor has floats from 2 to 2"),
        (None, "given as NoneType; expected a path"),
        (3, "given as int"),
    ],
)
def test_arrays_that_are_no_image(source: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_image(source)


# ---- modes


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "CMYK", "YCbCr", "HSV", "P", "RGBX"])
def test_modes_without_transparency(mode: str) -> None:
    image = gradient().convert(mode)
    assert np.array_equal(pixels(read_image(image)), np.asarray(image.convert("RGB")))
    assert np.array_equal(np.asarray(image), np.asarray(image.copy()))  # untouched


def test_cmyk_jpeg() -> None:
    out = read_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    red, green, blue = pixels(out)[4, 4]
    assert red > 200
    assert green < 60
    assert blue < 60


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa", "La"])
def test_transparent_pixels_become_white(mode: str) -> None:
    image = Image.new("RGBA", (4, 2), (204, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 2, 2))
    image = image.convert("LA").convert(mode) if mode in ("LA", "La") else image.convert(mode)
    out = pixels(read_image(image))
    assert tuple(out[0, 0]) == WHITE
    assert tuple(out[0, 3]) == ((61, 61, 61) if mode.startswith("L") else (204, 0, 0))


def test_half_transparent_pixels_are_mixed_with_white() -> None:
    assert tuple(pixels(read_image(Image.new("RGBA", (1, 1), (0, 0, 0, 128))))[0, 0]) == (127, 127, 127)
    array = np.array([[[0, 0, 0, 0]]], np.uint8)
    assert tuple(pixels(read_image(array))[0, 0]) == WHITE


def test_transparent_palettes_and_colours() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.putdata([0, 1])
    assert pixels(read_image(encoded(palette, transparency=0))).tolist() == [[list(WHITE), [0, 255, 0]]]
    assert pixels(read_image(encoded(palette, "GIF", transparency=0))).tolist() == [[list(WHITE), [0, 255, 0]]]
    colour = Image.new("RGB", (1, 1), (1, 2, 3))
    assert tuple(pixels(read_image(encoded(colour, transparency=(1, 2, 3))))[0, 0]) == WHITE
    grey = Image.new("L", (1, 1), 7)
    assert tuple(pixels(read_image(encoded(grey, transparency=7)))[0, 0]) == WHITE


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    expected = [0, 1, 128, 255]
    image = Image.fromarray(values)
    assert image.mode == "I;16"
    for kind in ("PNG", "TIFF"):
        assert pixels(read_image(encoded(image, kind)))[0, :, 0].tolist() == expected
    assert pixels(read_image(image))[0, :, 2].tolist() == expected
    assert pixels(read_image(Image.fromarray(values.astype(np.int32))))[0, :, 1].tolist() == expected
    assert pixels(read_image(Image.fromarray(values.astype(np.float32))))[0, :, 1].tolist() == expected
    assert pixels(read_image(Image.fromarray(values.astype(">u2"))))[0, :, 1].tolist() == expected
    dark = Image.fromarray(np.array([[0, 128]], np.uint16))
    assert pixels(read_image(encoded(dark)))[0, :, 0].tolist() == [0, 0]


def test_modes_that_do_not_say_their_range() -> None:
    def grey(values: Any, kind: Any) -> Any:
        return pixels(read_image(Image.fromarray(np.array([values], kind))))[0, :, 0].tolist()

    assert grey([0, 255], np.int32) == [0, 255]
    assert grey([0.0, 0.5, 1.0], np.float32) == [0, 128, 255]
    assert grey([0.0, 100.0, 255.0], np.float32) == [0, 100, 255]
    for values, kind in (([-1, 5], np.int32), ([0, 70000], np.int32), ([float("nan")], np.float32)):
        with pytest.raises(DataError, match="The PIL image has values from"):
            grey(values, kind)


def test_animations_give_their_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "WEBP", "TIFF"):
        data = encoded(
            frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
        )
        assert tuple(pixels(read_image(data))[0, 0]) == (255, 0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int, tmp_path: Path) -> None:
    upright = Image.new("RGB", (32, 16), "red")
    upright.paste((0, 0, 255), (0, 0, 8, 8))  # a blue corner, top left
    T = Image.Transpose
    undo = [None, None, T.FLIP_LEFT_RIGHT, T.ROTATE_180, T.FLIP_TOP_BOTTOM, T.TRANSPOSE, T.ROTATE_90, T.TRANSVERSE]
    how = [*undo, T.ROTATE_270][orientation]
    stored = upright if how is None else upright.transpose(how)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, "PNG", exif=exif)
    for source in (data, Image.open(io.BytesIO(data))):
        out = read_image(source)
        assert out.size == (32, 16)
        assert tuple(pixels(out)[2, 2]) == (0, 0, 255)
        assert tuple(pixels(out)[12, 28]) == (255, 0, 0)
        assert np.array_equal(pixels(read_image(out)), pixels(out))  # not turned twice


# ---- what can't be read


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"The image file .*nothing\.jpg does not exist"):
        read_image(tmp_path / "nothing.jpg")
    with pytest.raises(DataError, match="is a folder"):
        read_image(tmp_path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.8])
def test_truncated_files(kind: str, share: float, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    path = tmp_path / "cut.img"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=r"The image file .*cut\.img can't be read \(.+\): it is damaged, truncated or"):
        read_image(path)


def test_files_that_are_no_image(tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("hello")
    with pytest.raises(DataError, match=r"notes\.jpg can't be read .*of an unknown format"):
        read_image(tmp_path / "notes.jpg")
    with pytest.raises(DataError, match="The image given as 5 bytes can't be read"):
        read_image(b"hello")


def bomb(width: int, height: int) -> bytes:
    """A PNG that says it is that large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="refused as a decompression bomb"):
        read_image(bomb(50_000, 50_000))
    (tmp_path / "big.png").write_bytes(bomb(10_000, 10_000))
    with pytest.raises(
        DataError, match=r"big\.png has 10000 × 10000 pixels, more than the 89,478,485 allowed: make it"
    ):
        read_image(tmp_path / "big.png")
    with pytest.raises(DataError, match="has 40 × 30 pixels, more than the 1,199 allowed"):
        read_image(encoded(gradient()), max_pixels=1199)
    assert read_image(encoded(gradient()), max_pixels=1200).size == (40, 30)


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs_where_warnings_are_errors() -> None:
    with pytest.raises(DataError, match="decompression bomb"):
        read_image(bomb(10_000, 10_000))


# ---- to tensors


def naive(image: Image.Image, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> torch.Tensor:
    """ToTensor and Normalize."""
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    return (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


@pytest.mark.parametrize(
    ("size", "resized", "corner"),
    [
        ((100, 50), (64, 32), (16, 0)),
        ((50, 100), (32, 64), (0, 16)),
        ((32, 32), (32, 32), (0, 0)),
        ((32, 75), (32, 75), (0, 22)),  # 21.5 to the even number, as torchvision
        ((33, 50), (32, 48), (0, 8)),  # 48.48 truncated
        ((35, 50), (32, 45), (0, 6)),  # 45.7 truncated; 6.5 to 6
        ((7, 5), (44, 32), (6, 0)),
        ((1, 1), (32, 32), (0, 0)),
    ],
)
def test_resize_and_crop_are_plain_pillows(
    size: tuple[int, int], resized: tuple[int, int], corner: tuple[int, int]
) -> None:
    image = gradient(*size)
    left, top = corner
    by_hand = image.resize(resized, Image.Resampling.BICUBIC).crop((left, top, left + 32, top + 32))
    out = Preprocess(32)(image)
    assert out.shape == (3, 32, 32)
    assert out.dtype == torch.float32
    assert out.is_contiguous()
    assert torch.equal(out, naive(by_hand))


def test_normalisation_has_known_answers() -> None:
    out = Preprocess(4)(Image.new("RGB", (9, 9), (0, 128, 255)))
    for channel, value in enumerate((0.0, 128 / 255, 1.0)):
        assert torch.allclose(out[channel], torch.full((4, 4), (value - MEAN[channel]) / STD[channel]), atol=1e-6)
    other = Preprocess(4, mean=(0, 0, 0), std=(1, 1, 1))(Image.new("RGB", (9, 9), (0, 51, 255)))
    assert other[:, 0, 0].tolist() == pytest.approx([0, 0.2, 1])


def test_squash_keeps_the_whole_image() -> None:
    image = gradient(60, 20)
    assert torch.equal(Preprocess(16, squash=True)(image), naive(image.resize((16, 16), Image.Resampling.BICUBIC)))


def test_batches() -> None:
    preprocess = Preprocess(8)
    images: list[Any] = [gradient(20, 10), np.zeros((9, 9, 3), np.uint8), encoded(gradient(8, 30))]
    out = preprocess.batch(images)
    assert out.shape == (3, 3, 8, 8)
    assert torch.equal(out[2], preprocess(images[2]))
    assert preprocess.batch([]).shape == (0, 3, 8, 8)


def test_settings_of_published_checkpoints() -> None:
    hugging_face = {
        "crop_size": {"height": 224, "width": 224},
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
        "resample": 3,
        "size": {"shortest_edge": 224},
    }
    expected = Preprocess(224, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert Preprocess.from_settings(hugging_face, 224) == expected
    assert Preprocess.from_settings({**hugging_face, "size": 224, "crop_size": 224}, 224) == expected
    open_clip = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "resize_mode": "squash", "interpolation": "bicubic"}
    assert Preprocess.from_settings(open_clip, 224) == Preprocess(224, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), squash=True)
    assert Preprocess.from_settings({}, 32) == Preprocess(32, MEAN, STD)
    with pytest.warns(UserWarning, match="an interpolation other"):
        Preprocess.from_settings({"resample": 2}, 224)
    with pytest.warns(UserWarning, match=r"resizes images to \[256\]; its tower's 224 is used"):
        Preprocess.from_settings({"size": 256}, 224)


# ---- augmentation


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_augmentation_follows_its_generator_alone() -> None:
    preprocess, image = Preprocess(16), gradient()
    first = [preprocess.augment(image, seeded(3)) for _ in range(2)]
    assert torch.equal(*first)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    generator = seeded(3)
    a, b = preprocess.augment(image, generator), preprocess.augment(image, generator)
    assert torch.equal(a, first[0])
    assert not torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), before)


def test_augmentation_is_crop_resize_flip() -> None:
    """The same draws by hand, in torchvision's order: area, ratio, top, left, flip."""
    image = gradient(50, 40)
    flips = set()
    for seed in range(30):
        g = seeded(seed)
        area = 50 * 40 * torch.empty(1).uniform_(0.5, 1.0, generator=g).item()
        ratio = math.exp(torch.empty(1).uniform_(math.log(3 / 4), math.log(4 / 3), generator=g).item())
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if w > 50 or h > 40:
            continue
        top, left = (
            int(torch.randint(0, 40 - h + 1, (1,), generator=g)),
            int(torch.randint(0, 50 - w + 1, (1,), generator=g)),
        )
        crop = image.crop((left, top, left + w, top + h)).resize((16, 16), Image.Resampling.BICUBIC)
        flip = bool(torch.rand(1, generator=g) < 0.5)
        flips.add(flip)
        expected = naive(crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else crop)
        assert torch.equal(Preprocess(16).augment(image, seeded(seed)), expected)
    assert flips == {True, False}


def test_crops_keep_their_bounds() -> None:
    generator = seeded(0)
    areas, ratios, corners = [], [], set()
    for _ in range(2000):
        left, top, w, h = _random_box(120, 100, generator, 0.5)
        assert left >= 0
        assert top >= 0
        assert left + w <= 120
        assert top + h <= 100
        areas.append(w * h / 12000)
        ratios.append(w / h)
        corners.add((left, top))
    assert 0.49 < min(areas) < 0.52
    assert 0.97 < max(areas) <= 1.0
    assert 0.74 < min(ratios) < 0.77
    assert 1.30 < max(ratios) < 1.35
    assert len(corners) > 500


@pytest.mark.parametrize(
    ("size", "box"),
    [((10, 400), (0, 193, 10, 13)), ((400, 10), (193, 0, 13, 10))],  # 10 / (3/4) = 13.3; 10 · 4/3 = 13.3
)
def test_very_long_images_fall_back_to_the_centre(size: tuple[int, int], box: tuple[int, ...]) -> None:
    assert all(_random_box(*size, seeded(seed), 0.5) == box for seed in range(5))


def test_flips_are_even() -> None:
    preprocess = Preprocess(2)
    image = Image.new("RGB", (64, 64), "black")
    image.paste(WHITE, (32, 0, 64, 64))
    generator = seeded(0)
    mirrored = sum(
        int(out[0, 0, 0] > out[0, 0, 1]) for out in (preprocess.augment(image, generator) for _ in range(400))
    )
    assert 160 < mirrored < 240


def test_an_image_that_cannot_be_read_is_refused_everywhere() -> None:
    for call in (
        Preprocess(8),
        lambda image: Preprocess(8).augment(image, seeded(0)),
        lambda x: Preprocess(8).batch([x]),
    ):
        with pytest.raises(DataError):
            call(b"no image")
