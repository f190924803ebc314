"""Small valid files of every kind that fewclip reads, to be damaged by fuzzing."""

from __future__ import annotations

import io
import json
import pickle
import string
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from layouts import _Tree
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from results import failed, halves, row, transfers
from safetensors.torch import save
from small import small_clip, small_config

from fewclip.bench.rows import Row
from fewclip.clip.model import CLIP

TOKENS = [*string.ascii_lowercase, *string.digits, *".,!?'-:;()/&_"]
VOCABULARY = {t: i for i, t in enumerate([*TOKENS, *(f"{t}</w>" for t in TOKENS), "<|startoftext|>", "<|endoftext|>"])}


@cache
def tiny() -> CLIP:
    """A CLIP whose vocabulary has a hundred tokens."""
    return small_clip()


def image(kind: str, mode: str = "RGB", size: tuple[int, int] = (24, 18), **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
    picture = Image.fromarray(pixels)
    picture = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257) if mode == "I;16" else picture.convert(mode)
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


@cache
def images() -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "described"
    text = PngInfo()
    text.add_text("comment", "x" * 50, zip=True)
    more = [Image.new("RGB", (24, 18), colour) for colour in ("red", "lime")]
    return [
        image("PNG"), image("PNG", "P"), image("PNG", "LA"), image("PNG", "I;16"), image("PNG", "1"),
        image("PNG", "RGBA", exif=exif, icc_profile=bytes(200), pnginfo=text),
        image("PNG", save_all=True, append_images=more),
        image("JPEG", exif=exif, icc_profile=bytes(200)), image("JPEG", progressive=True), image("JPEG", "CMYK"),
        image("GIF", save_all=True, append_images=more), image("GIF", transparency=0),
        image("WEBP", exif=exif), image("WEBP", "RGBA", lossless=True, save_all=True, append_images=more),
        image("BMP"), image("BMP", "P"), image("PPM"), image("PPM", "L"), image("AVIF"),
        image("TIFF", exif=exif), image("TIFF", "CMYK", compression="tiff_lzw"), image("TIFF", "I;16"),
        image("TIFF", compression="tiff_adobe_deflate", save_all=True, append_images=more), image("TIFF", compression="jpeg"),
        image("ICO"), image("TGA"), image("EPS"), b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    ]  # fmt: skip


@cache
def safetensors_files() -> list[bytes]:
    state = tiny().state_dict()
    few = {"a": torch.zeros(2, 3), "b": torch.ones(4, dtype=torch.float16), "c": torch.arange(3)}
    return [save(state, {"quick_gelu": "true"}), save(few), save({})]


def torch_file(value: Any) -> bytes:
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


@cache
def torch_files() -> list[bytes]:
    few = {"a": torch.zeros(2, 3), "b": torch.ones(4, dtype=torch.float16), "c": torch.arange(3)}
    shared = torch.arange(12.0).reshape(3, 4)
    wrapped = {"epoch": 3, "state_dict": {"x": shared, "y": shared.T}, "extra": [None, True, 2.5, "name", (1, 2)]}
    return [torch_file(few), torch_file(wrapped), torch_file(tiny().state_dict())]


@cache
def torchscript() -> bytes:
    out = io.BytesIO()
    torch.jit.save(
        torch.jit.script(_Tree({"a.b": torch.zeros(3), "c": torch.ones(2, 2), "n": torch.tensor(4)}).eval()), out
    )
    return out.getvalue()


def entries(archive: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def zipped(content: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return out.getvalue()


def tokenizer_json() -> dict[str, Any]:
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    encoder = Tokenizer(models.BPE(VOCABULARY, [], end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    encoder.pre_tokenizer = pre_tokenizers.Whitespace()
    encoder.add_special_tokens([AddedToken(t, special=True) for t in ("<|startoftext|>", "<|endoftext|>")])
    return dict(json.loads(encoder.to_str()))


def configs() -> dict[str, dict[str, Any]]:
    """The configurations of the three layouts, by the name of the file."""
    c = small_config()
    tower = {"hidden_act": "quick_gelu", "num_attention_heads": 2, "image_size": 16}
    own = {name: getattr(c, name) for name in c.__dataclass_fields__}
    model = {
        "embed_dim": 16, "quick_gelu": True,
        "vision_cfg": {"image_size": 16, "layers": 4, "width": 24, "head_width": 12, "patch_size": 8},
        "text_cfg": {"context_length": 20, "vocab_size": 100, "width": 16, "heads": 2, "layers": 4},
    }  # fmt: skip
    look = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bicubic", "resize_mode": "shortest"}
    return {
        "own": own,
        "hf": {"model_type": "clip", "text_config": dict(tower), "vision_config": dict(tower)},
        "open_clip": {"model_cfg": model, "preprocess_cfg": look},
    }


def write_backbone(folder: Path) -> None:
    """A folder that `load` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(configs()["own"]))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json()))
    (folder / "model.safetensors").write_bytes(safetensors_files()[0])


@cache
def result_rows() -> list[list[Row]]:
    """Files of rows."""
    example = {"key": "a/1.jpg", "truth": "cat", "guess": "dog", "probability": 0.5}
    rich: dict[str, Any] = {"confusions": [["cat", "dog", 3]], "examples": [example]}
    few = [row(protocol="few-shot", split="all", shots=n, **rich) for n in (1, 4)]
    cross = transfers("mmrl", "imagenet", 1, {"imagenet": 70.0, "dtd": 40.0}, "cross-dataset")
    varied = halves("mmrl", "dtd", 1, 80.0, 60.0, ablation="rep-dim", variant="32")
    return [
        halves("mmrl", "dtd", 1, 80.0, 60.0, **rich) + halves("zero-shot", "dtd", 1, 70.0, 65.0),
        [*few, failed("broken", "no data")],
        [*cross, *varied],
    ]


PICKLES = [pickle.dumps({"a": 1}, protocol=p) for p in (0, 2, 4)]


@cache
def workplace() -> Path:
    """A folder that lasts as long as the process."""
    import atexit
    import shutil
    import tempfile

    place = Path(tempfile.mkdtemp(prefix="fewclip-fuzz-"))
    atexit.register(shutil.rmtree, place, True)
    return place


@cache
def tiny_with_words() -> CLIP:
    """The CLIP with its tokenizer, as it is loaded."""
    write_backbone(workplace() / "backbone")
    return CLIP.from_pretrained(str(workplace() / "backbone"))


def put_images(folder: Path) -> None:
    for name in ("a/1.png", "b/1.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(images()[0])
