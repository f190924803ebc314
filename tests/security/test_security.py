"""Checkpoints and adapters that mean harm (docs/security.md)."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import struct
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import fuzz_files as files
import pytest
import torch
from measuring import grown_mb
from PIL import Image
from safetensors.torch import load as from_bytes
from safetensors.torch import save, save_file

from fewclip import FewShotClassifier
from fewclip.adapters.checks import LARGEST, build
from fewclip.adapters.disk import CONFIG, WEIGHTS
from fewclip.clip import weights
from fewclip.clip.decode import read_image
from fewclip.clip.load import load
from fewclip.clip.model import CLIP
from fewclip.errors import AdapterError, BackboneError, DataError, FewclipError
from fewclip.methods import METHODS, find
from fewclip.methods.zero_shot import ZeroShot

# ---- checkpoints


def header(text: bytes, length: int | None = None, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def tensors(**places: tuple[int, int, list[int]]) -> bytes:
    described = {n: {"dtype": "F32", "shape": shape, "data_offsets": [a, b]} for n, (a, b, shape) in places.items()}
    return header(json.dumps(described).encode(), body=bytes(8))


HEADERS = {
    "of 4 GiB": header(b"{}", 4 << 30),
    "of 2^63 bytes": header(b"{}", 1 << 63),
    "negative": tensors(a=(-4, 0, [1])),
    "overlapping": tensors(a=(0, 8, [2]), b=(4, 8, [1])),
    "beyond the end": tensors(a=(0, 400, [100])),
    "a huge shape": tensors(a=(0, 8, [1 << 40])),
    "a product that overflows": tensors(a=(0, 8, [1 << 40, 1 << 40])),
    "nested": header(b"[" * 100_000),
    "a pickle": pickle.dumps({"a": 1}),
    "20,001 tensors": save({f"t{n}": torch.empty(0) for n in range(20_001)}),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_headers_of_safetensors(kind: str, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(HEADERS[kind])

    def read() -> None:
        with pytest.raises(BackboneError, match=r"x\.safetensors (is damaged or incomplete|holds 20,001 tensors)"):
            weights.read(tmp_path / "x.safetensors")

    assert grown_mb(read, BackboneError) < 100


def archive(pickled: bytes) -> bytes:
    """A file of torch.save with another pickle."""
    content = files.entries(files.torch_files()[0])
    (name,) = [name for name in content if name.endswith("/data.pkl")]
    return files.zipped(content | {name: pickled})


def deflated() -> bytes:
    content = files.entries(files.torch_files()[0])
    (name,) = [name for name in content if name.endswith("/data/0")]
    return files.zipped(content | {name: bytes(300_000_000)}, zipfile.ZIP_DEFLATED)


def overlapping() -> bytes:
    """Of two storages, the second is said to lie where the first does."""
    data = files.torch_file({f"t{n}": torch.full((500_000,), float(n)) for n in range(2)})
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        first, second = (struct.pack("<I", opened.getinfo(f"archive/data/{n}").header_offset) for n in range(2))
        directory = opened.start_dir
    return data[:directory] + data[directory:].replace(second, first)


MEMORY: dict[str, Callable[[], bytes]] = {
    "compressed entries": deflated,
    "overlapping entries": overlapping,
    "an index of 2^31 in the pickle's memory": lambda: archive(b"\x80\x02}r\xff\xff\xff\x7f."),
    "a bytearray by name": lambda: archive(b"\x80\x02cbuiltins\nbytearray\n(J\xff\xff\xff\x7ftR."),
    "a bytearray by opcode": lambda: archive(b"\x80\x05\x96" + struct.pack("<Q", 3 << 30) + b"."),
    "one number as a billion": lambda: files.torch_file({"a": torch.zeros(1).expand(10**9)}),
    "the same numbers 2,000 times": lambda: files.torch_file(dict.fromkeys(map(str, range(2000)), torch.zeros(10**6))),
    "a bare pickle with an index of 2^31": lambda: b"\x80\x02}r\xff\xff\xff\x7f.",
    "a bare pickle whose bytes do not come": lambda: b"\x80\x04\x8e" + struct.pack("<Q", 3 << 30),
}


@pytest.mark.parametrize("kind", MEMORY)
def test_small_files_that_ask_for_much_memory(kind: str, tmp_path: Path) -> None:
    data = MEMORY[kind]()
    assert len(data) < 5_000_000
    (tmp_path / "x.pt").write_bytes(data)

    def read() -> None:
        with pytest.raises(BackboneError, match=r"x\.pt "):
            weights.read(tmp_path / "x.pt")

    assert grown_mb(read, BackboneError) < 60


@pytest.mark.parametrize("opcodes", [b"(K\x01K\x01\x90.", b"K\x01K\x01s.", b"(K\x01K\x01u.", b"}b."])
def test_a_pickle_that_changes_a_tensor_is_refused(opcodes: bytes, tmp_path: Path) -> None:
    """Adding to a tensor, setting its items or its state would compute: none of it is done."""
    whole = files.entries(files.torch_file(torch.zeros(4)))
    (name,) = [name for name in whole if name.endswith("/data.pkl")]
    whole[name] = whole[name].removesuffix(b".") + opcodes
    (tmp_path / "x.pt").write_bytes(files.zipped(whole))
    with pytest.raises(BackboneError, match="changes what is not a container"):
        weights.read(tmp_path / "x.pt")


def test_names_of_tensors_are_no_paths(tmp_path: Path) -> None:
    state = dict(files.tiny().state_dict()) | {"../../evil": torch.zeros(1), "/tmp/evil": torch.zeros(1)}
    files.write_backbone(tmp_path / "a")
    save_file(state, tmp_path / "a" / "model.safetensors")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BackboneError, match=r"\.\./\.\./evil, /tmp/evil are unknown"):
        load(str(tmp_path / "a"))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"text_layers": 10**9}, "text_layers is 1000000000, which no CLIP has"),
        ({"vision_layers": 10**6}, "tensors and images of 16 pixels don't make a CLIP of 1000000 and 4 layers"),
        ({"vision_heads": 0}, "vision_heads is 0, which no CLIP has"),
        ({"vision_heads": -2}, "vision_heads is -2, which"),
        ({"vision_heads": 5}, "don't divide into 5 and 2 heads"),
        ({"vision_width": "24"}, "vision_width is 24, which"),
        ({"image_size": 10**5}, "images of 100000 pixels"),
    ],
)
def test_sizes_that_no_clip_has(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    files.write_backbone(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(files.configs()["own"] | change))
    with pytest.raises(BackboneError, match=says):
        load(str(tmp_path))


def test_a_layer_number_does_not_make_layers(tmp_path: Path) -> None:
    state = dict(files.tiny().state_dict()) | {"transformer.resblocks.999999999.ln_1.weight": torch.zeros(16)}
    files.write_backbone(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(files.configs()["hf"]))
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(BackboneError, match="text_layers is 1000000000, which no CLIP has"):
        load(str(tmp_path))


def test_links_and_pipes(tmp_path: Path) -> None:
    """What is no regular file is not opened: a pipe or a device would never end."""
    for name in ("pipe.png", "pipe.csv", "variants.txt", "adapter_config.json", "rows.jsonl", "pipe.pt"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "images_variant_train.txt").write_text("1 a\n")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    from fewclip.bench.rows import read_rows
    from fewclip.data.read import read_data

    for name in ("pipe.png", "zero.png", "loop.png"):
        with pytest.raises(DataError, match="does not exist: give the path of an image"):
            read_image(tmp_path / name)
    with pytest.raises(DataError, match="it is not a regular file"):
        read_data(tmp_path / "pipe.csv")
    with pytest.raises(DataError, match=r"variants\.txt can't be read"):
        read_data(tmp_path)
    with pytest.raises(DataError, match="There are no results"):
        read_rows(tmp_path)
    with pytest.raises(AdapterError, match="is not a finished adapter"):
        FewShotClassifier.load(tmp_path)
    with pytest.raises(BackboneError, match="no file or folder"):
        load(str(tmp_path / "pipe.pt"))


# ---- adapters


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    pairs = [(Image.new("RGB", (20, 20), c), c) for c in ("red", "blue", "lime")]
    FewShotClassifier("mmrl", files.tiny_with_words(), shots=None, epochs=1, rep_dim=8).fit(pairs).save(folder)
    return folder


def written(saved: Path, place: Path, change: dict[str, Any], data: bytes | None = None) -> Path:
    """A copy of an adapter, changed, with the right checksum."""
    data = (saved / WEIGHTS).read_bytes() if data is None else data
    config = json.loads((saved / CONFIG).read_text())
    for name, value in change.items():
        inner, _, last = name.rpartition(".")
        (config[inner] if inner else config)[last] = value
    (place / WEIGHTS).write_bytes(data)
    (place / CONFIG).write_text(json.dumps(config | {"weights_sha256": hashlib.sha256(data).hexdigest()}))
    return place


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"classes": ["red", "\x1b]0;owned\x07", "x"]}, "holds control characters"),
        ({"classes": ["red", "blue", "a" * 301]}, "has 301 characters"),
        ({"classes": [1, 2, 3]}, "classes is"),
        ({"classes": []}, "names no classes"),
        ({"settings": []}, "settings is"),
        ({"format": "1"}, "format is"),
        ({"template": "no place"}, "should hold {} once"),
        ({"template": "{}" + "a" * 2000}, "2002 characters"),
        ({"settings.rep_dim": 1_000_000}, r"are not those of mmrl on this backbone: .* current model is .*1000000"),
        ({"settings.rep_dim": 10**12}, "the setting rep_dim is '1000000000000'"),
        ({"settings.rep_dim": 9}, "are not those of mmrl on this backbone"),
        ({"settings.alpha": "0.7"}, "the setting alpha"),
        ({"settings.alpha": float("nan")}, "the setting alpha is 'nan'"),
        ({"settings.regulariser": "__import__('os')"}, "the setting regulariser"),
        ({"training.settings": [1]}, r"training\.settings is"),
        ({"method": "../../evil"}, "There is no method"),
    ],
)
def test_adapters_that_lie(change: dict[str, Any], says: str, saved: Path, tmp_path: Path) -> None:
    place = written(saved, tmp_path, change)

    def read() -> None:
        with pytest.raises(FewclipError, match=says) as caught:
            FewShotClassifier.load(place, backbone=files.tiny_with_words())
        assert str(caught.value).isprintable()

    assert grown_mb(read, FewclipError) < 600


@pytest.mark.parametrize("name", METHODS)
def test_settings_that_ask_for_much_memory(name: str) -> None:
    """Whatever number a setting has, no more is made than the adapter's tensors hold, and at once."""
    kind, clip = find(name), files.tiny()
    good = kind.Settings()
    tensors = kind(clip, good, 3).state_dict()
    build(kind, clip, good, tensors, 3)  # so that all is imported
    numbers = [field.name for field in fields(good) if type(getattr(good, field.name)) in (int, float)]
    every = [{number: LARGEST} for number in numbers] + [dict.fromkeys(numbers, LARGEST)]

    def read() -> None:
        for change in every:
            with suppress(FewclipError):
                build(kind, clip, replace(good, **change), tensors, 3)

    start = time.monotonic()
    assert grown_mb(read, FewclipError) < 50
    assert time.monotonic() - start < 10


class Constant(ZeroShot):
    """A method that computes something large from its settings and does not save it."""

    @dataclass(frozen=True, kw_only=True)
    class Settings:
        size: int = 10

    def __init__(self, clip: CLIP, settings: Any = None, classes: int = 0) -> None:
        super().__init__(clip, settings, classes)
        self.register_buffer("constant", torch.ones(settings.size, 1000), persistent=False)


def test_settings_that_ask_for_much_that_is_not_saved() -> None:
    assert build(Constant, files.tiny(), Constant.Settings(), {}, 3).get_buffer("constant").sum() == 10_000

    def read() -> None:
        with pytest.raises(AdapterError, match="ask for far more parameters than it contains"):
            build(Constant, files.tiny(), Constant.Settings(size=1_000_000), {}, 3)

    assert grown_mb(read, AdapterError) < 50


def test_an_adapter_with_numbers_that_are_not_finite(saved: Path, tmp_path: Path) -> None:
    state = from_bytes((saved / WEIGHTS).read_bytes())
    next(iter(state.values())).view(-1)[0] = float("nan")
    with pytest.raises(AdapterError, match="contains values that are not finite"):
        FewShotClassifier.load(written(saved, tmp_path, {}, save(state)), backbone=files.tiny_with_words())


def test_the_backbone_that_an_adapter_names_is_only_read(saved: Path, tmp_path: Path) -> None:
    """It may be any path; what is there must be a checkpoint, and nothing in it is run."""
    marker = tmp_path / "marker"

    class Act:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {marker}",)

    (tmp_path / "bare.pt").write_bytes(pickle.dumps({"a": Act()}))
    (tmp_path / "evil.pt").write_bytes(files.torch_file({"a": Act()}))
    (tmp_path / "a").mkdir()
    for name, says in (
        (str(tmp_path / "bare.pt"), "is a bare pickle"),
        (str(tmp_path / "a" / ".." / "evil.pt"), "asks to run"),
        ("/etc/passwd", "damaged"),
        ("../..", "has no weights that fewclip can read"),
    ):
        with pytest.raises(BackboneError, match=says) as caught:
            FewShotClassifier.load(written(saved, tmp_path / "a", {"backbone": name}))
        assert "root:" not in str(caught.value)
    assert not marker.exists()


# ---- what fuzzing found, each as small as it gets


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b'J"',
        archive(b"\x80\x02}q\x00X\x01\x00\x00"),
        archive(b"\x80\x02."),
        b"PK\x03\x04",
        archive(b"."),
        archive(b"0."),
        archive(b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\xfftQ."),
        archive(b"(X\x07\0\0\0storageccollections\nOrderedDict\nX\x01\0\0\x000X\x03\0\0\0cpuK\x06tQ."),
        files.zipped({"a/data.pkl": b"N.", "b/data.pkl": b"N."}),
    ],
)
def test_damaged_pickles(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(data)
    with pytest.raises(BackboneError, match=r"x\.pt is damaged or incomplete|x\.pt holds"):
        weights.read(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "preprocessor_config.json", "model.safetensors.index.json"]
)
@pytest.mark.parametrize(
    "text", ["[" * 200_000, "[]", "{}", '{"weight_map": {"a": 1}}', '{"weight_map": {"a": ".."}}', '{"mean": 3}']
)
def test_damaged_json_of_a_checkpoint(name: str, text: str, tmp_path: Path) -> None:
    files.write_backbone(tmp_path)
    (tmp_path / name).write_text(text)
    if name.endswith("index.json"):
        (tmp_path / "model.safetensors").unlink()
    if (name, text) == ("preprocessor_config.json", "{}") or (name[0], text[:5]) == ("p", '{"wei'):
        assert load(str(tmp_path)).preprocess is not None
        return
    with pytest.raises(BackboneError):
        load(str(tmp_path))


def test_a_deep_adapter_and_no_names(saved: Path, tmp_path: Path) -> None:
    (tmp_path / WEIGHTS).write_bytes((saved / WEIGHTS).read_bytes())
    (tmp_path / CONFIG).write_text("[" * 200_000)
    with pytest.raises(AdapterError, match="nested too deeply"):
        FewShotClassifier.load(tmp_path)
    classifier = FewShotClassifier.load(saved, backbone=files.tiny_with_words())
    assert list(classifier.add_classes([]).classes_) == ["blue", "lime", "red"]
    with pytest.raises(DataError, match="classes is empty"):
        classifier.predict([], classes=[])
