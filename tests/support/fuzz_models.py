"""Images, checkpoints and adapters: what fuzzing feeds to their readers, and how it calls them."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import fuzz_files as files
from hypothesis import strategies as st
from mutations import NAMES, Seeds, altered, json_like, like
from PIL import Image

from fewclip import FewShotClassifier
from fewclip.adapters.disk import CONFIG, WEIGHTS
from fewclip.clip import load, weights
from fewclip.clip.decode import read_image
from fewclip.clip.preprocess import Preprocess
from fewclip.clip.tokenizer import Tokenizer
from fewclip.errors import PromptError

# ---- images


def read_picture(case: bytes, place: Path) -> None:
    from fewclip.serve.limits import Limits, Refused, to_pixels

    preprocess = Preprocess(16)
    with suppress(Refused):
        assert to_pixels(case, preprocess, Limits(max_pixels=1_000_000)).shape == (3, 16, 16)
    (place / "image.jpg").write_bytes(case)
    found = read_image(place / "image.jpg", max_pixels=1_000_000)
    assert isinstance(found, Image.Image)
    assert found.mode == "RGB"
    assert preprocess(found).isfinite().all()


# ---- checkpoints


def read_weights(ending: str) -> Callable[[bytes, Path], None]:
    def read(case: bytes, place: Path) -> None:
        file = place / f"weights{ending}"
        file.write_bytes(case)
        found = weights.read(file)
        total = sum(t.numel() * t.element_size() for t in found.tensors.values())
        assert total <= 2 * len(case) + 1_000_000, total

    return read


def archives() -> st.SearchStrategy[bytes]:
    """Archives of torch's: bytes changed anywhere, or entries changed and the archive made anew."""
    valid = [*files.torch_files(), files.torchscript()]

    @st.composite
    def remade(draw: Callable[[Any], Any]) -> bytes:
        content = files.entries(valid[draw(st.sampled_from([0, 1, 3]))])
        pickled = [name for name in content if name.endswith(".pkl")]
        name = draw(st.sampled_from(pickled) | st.sampled_from(sorted(content)))
        content[name] = draw(like([content[name], *files.PICKLES]))
        if draw(st.booleans()):
            content[draw(NAMES.filter(lambda n: n.isprintable() and n != ""))] = draw(st.binary(max_size=20))
        return files.zipped(content, draw(st.sampled_from([zipfile.ZIP_STORED] * 4 + [zipfile.ZIP_DEFLATED])))

    return st.one_of(like(valid), remade(), remade())


LOOK = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1], "size": {"shortest_edge": 16}, "resample": 3}


def good_folders() -> dict[str, dict[str, Any]]:
    """Files of whole checkpoints, in every layout."""
    configs, words, state = files.configs(), files.tokenizer_json(), files.safetensors_files()[0]
    shards = {"weight_map": {"a": "x.safetensors"}}
    return {
        "own": {"config.json": configs["own"], "model.safetensors": state, "tokenizer.json": words},
        "hf": {"config.json": configs["hf"], "model.safetensors": state, "tokenizer.json": words},
        "shards": {
            "config.json": configs["hf"], "model.safetensors.index.json": shards, "x.safetensors": state,
            "tokenizer.json": words,
        },
        "open_clip": {
            "open_clip_config.json": configs["open_clip"], "open_clip_model.safetensors": state, "tokenizer.json": words,
        },
    }  # fmt: skip


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def encoded(folder: dict[str, Any]) -> dict[str, bytes]:
    return {name: value if isinstance(value, bytes) else as_json(value) for name, value in folder.items()}


def folders() -> st.SearchStrategy[dict[str, bytes]]:
    """Files of a checkpoint's folder, of which one or two are altered."""
    good = good_folders()

    @st.composite
    def folder(draw: Callable[[Any], Any]) -> dict[str, bytes]:
        content: dict[str, Any] = dict(good[draw(st.sampled_from(sorted(good)))])
        if draw(st.booleans()):
            content["preprocessor_config.json"] = LOOK
        if draw(st.integers(0, 4)) == 0:
            del content["tokenizer.json"]
            content["vocab.json"], content["merges.txt"] = files.VOCABULARY, b"#version: 0.2\n"
        changed = draw(st.sets(st.sampled_from(sorted(content)), min_size=1, max_size=2))
        made = {}
        for name, value in content.items():
            if isinstance(value, bytes):
                made[name] = draw(like([value, b"a b\nc d"])) if name in changed else value
            else:
                made[name] = draw(json_like([value])) if name in changed else json.dumps(value).encode()
        return made

    return folder()


def read_folder(case: dict[str, bytes], place: Path) -> None:
    for name, data in case.items():
        (place / name).write_bytes(data)
    clip = load.load(str(place))
    assert clip.tokenizer is not None
    assert clip.preprocess is not None
    clip.preprocess(Image.new("RGB", (20, 30)))
    for name in ("cat", "a", "\u00e9", "?"):
        with suppress(PromptError):
            clip.tokenizer([name], 20)


# ---- adapters


@cache
def adapter(place: Path) -> tuple[dict[str, Any], bytes]:
    """Configuration and weights of one."""
    pairs = [(Image.new("RGB", (20, 20), c), c) for c in ("red", "blue", "lime")]
    classifier = FewShotClassifier("mmrl", files.tiny_with_words(), shots=None, epochs=1, rep_dim=8).fit(pairs)
    classifier.save(place)
    return json.loads((place / CONFIG).read_text()), (place / WEIGHTS).read_bytes()


def good_adapters() -> list[tuple[bytes, bytes]]:
    config, data = adapter(files.workplace() / "adapter")
    return [(as_json(config), data)]


def adapters() -> st.SearchStrategy[tuple[bytes, bytes]]:
    config, data = adapter(files.workplace() / "adapter")

    def signed(changed: bytes) -> tuple[bytes, bytes]:
        return json.dumps(config | {"weights_sha256": hashlib.sha256(changed).hexdigest()}).encode(), changed

    rich = altered(Seeds([config])) | json_like([config])
    inner = [altered(Seeds([config["settings"]])).map(json.loads), altered(Seeds([config["training"]])).map(json.loads)]
    deeper = st.tuples(*inner).map(lambda two: json.dumps(config | {"settings": two[0], "training": two[1]}).encode())
    return st.one_of(
        rich.map(lambda text: (text, data)), deeper.map(lambda text: (text, data)), like([data]).map(signed)
    )


def read_adapter(case: tuple[bytes, bytes], place: Path) -> None:
    (place / CONFIG).write_bytes(case[0])
    (place / WEIGHTS).write_bytes(case[1])
    classifier = FewShotClassifier.load(place, backbone=files.tiny_with_words())
    found = classifier.predict_proba(Image.new("RGB", (20, 20)))
    assert found.shape == (1, len(classifier.classes_))


def tokens(case: bytes, place: Path) -> None:
    (place / "tokenizer.json").write_bytes(case)
    found = Tokenizer.from_folder(place)
    assert found is not None
    for text in ("cat", "\u00e9?", "", "\u0301" * 20):
        with suppress(PromptError):
            assert all(0 <= i < found.size for i in found.encode(text))
