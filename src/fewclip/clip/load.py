"""A frozen CLIP by name or path, whatever the layout of its weights.

`load` resolves a name, reads the tensors (clip/weights.py), renames them as OpenAI does (clip/layouts.py), and builds the
model. The one trap is the activation: OpenAI's weights were trained with QuickGELU, most of open_clip's with plain GELU,
under the same names; with the wrong one everything runs and accuracy is a few points lower. It is therefore read from the
checkpoint, and where the checkpoint doesn't state it, `load` warns.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewclip.clip import hub, layouts, weights
from fewclip.clip.config import Config
from fewclip.clip.model import CLIP
from fewclip.clip.outline import outline
from fewclip.clip.preprocess import Preprocess
from fewclip.clip.tokenizer import CLIP_VOCABULARY, Tokenizer
from fewclip.errors import BackboneError
from fewclip.files.read import parse_json, read_bytes

# The models that come with the package, each a folder of config.json (a `Config`), tokenizer.json, model.safetensors.
EMBEDDED = {"icon-clip": Path(__file__).parent / "icon_clip"}

# OpenAI's own names for its models.
ALIASES = {
    "vit-b/32": "openai/clip-vit-base-patch32",
    "vit-b/16": "openai/clip-vit-base-patch16",
    "vit-l/14": "openai/clip-vit-large-patch14",
    "vit-l/14@336px": "openai/clip-vit-large-patch14-336",
}

_OTHERWISE = (
    f"Give an embedded model ({', '.join(EMBEDDED)}), the path of a local file or folder with a CLIP's weights, "
    "or a name on the Hugging Face hub such as openai/clip-vit-base-patch16."
)
LARGEST, LARGEST_IMAGE = 10_000_000, 4096
"""The largest value of any size of a CLIP, and of the side of its images in pixels."""
_MISREAD = (TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError)
"""Exceptions that a config with values of wrong types leads to."""
_FILES = (".pt", ".pth", ".bin", ".safetensors", ".ckpt")


def load(name_or_path: str, *, quick_gelu: bool | None = None) -> CLIP:
    """A frozen CLIP in float32, in eval mode, with its `name`, `tokenizer` and `preprocess`.

    Args:
        name_or_path: an embedded model (`icon-clip`); a local file (OpenAI's `.pt`, a state dict as `.pt` or
            `.safetensors`) or folder (Hugging Face's or open_clip's layout); a name of OpenAI's (`ViT-B/16`) or on the
            Hugging Face hub (`openai/clip-vit-base-patch16`).
        quick_gelu: states the activation, overriding the checkpoint; needed where the checkpoint doesn't state it.

    Raises:
        BackboneError: nothing is found there, it can't be read, or it is not a CLIP with a vision transformer.
    """
    name = str(name_or_path)
    path = Path(os.path.expanduser(name))  # unlike Path.expanduser, leaves the home of a user that doesn't exist
    # An embedded name comes first, then what is on disk; only then the hub is asked.
    try:
        if name in EMBEDDED:
            clip = _load_folder(EMBEDDED[name], quick_gelu)
        elif name.strip() and os.path.isdir(path):
            clip = _load_folder(path, quick_gelu)
        elif os.path.isfile(path):
            clip = _load_file(path, quick_gelu)
        else:
            clip = _load_folder(hub.fetch_backbone(_hub_name(name), _OTHERWISE), quick_gelu)
    except BackboneError as error:
        message = str(error)
        raise BackboneError(message if name in message else f"{name} can't be loaded: {message}") from error.__cause__
    clip.name = name
    return clip


def hub_id(name: str) -> str | None:
    """The hub repository that a backbone's name stands for; None for an embedded one, a path, and anything else that
    is not a repository's name. Nothing is looked up."""
    if name in EMBEDDED or ".." in name:
        return None
    try:
        return _hub_name(name)
    except BackboneError:
        return None


def _hub_name(name: str) -> str:
    """The repository that a name stands for, unless it can only have been meant as a path."""
    alias = ALIASES.get(re.sub(r"^vit-([bl])-", r"vit-\1/", name.lower()))
    if alias is not None:
        return alias
    is_path = name.startswith((".", "~", "/")) or "\\" in name or name.count("/") > 1 or name.endswith(_FILES)
    if is_path:
        raise BackboneError(f"There is no file or folder {name} (looked from {Path.cwd()}). {_OTHERWISE}")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) is None:
        raise BackboneError(
            f"{name!r} is neither an embedded model, nor an existing path, nor a hub name. {_OTHERWISE}"
        )
    return name


def _load_folder(folder: Path, quick_gelu: bool | None) -> CLIP:
    files = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    pair = hub.choose(files)
    if pair is None:
        raise BackboneError(
            f"{folder} has no weights that fewclip can read (found: {', '.join(files[:5]) or 'nothing'}): expected config.json with "
            "model.safetensors or pytorch_model.bin, or open_clip_config.json with open_clip_model.safetensors or "
            "open_clip_pytorch_model.bin. To load a single file, give its path."
        )
    config = _json(folder / pair[0])
    if pair[1].endswith(".index.json"):
        tensors = weights.read_shards(folder, _json(folder / pair[1]))
    else:
        tensors = weights.read(folder / pair[1])
    return _assemble(tensors, config, folder, quick_gelu)


def _load_file(path: Path, quick_gelu: bool | None) -> CLIP:
    """One file. The config of the same checkpoint next to it is read too, since it settles the activation."""
    for config, file in hub.PAIRS:
        if path.name == file and not file.endswith(".json") and (path.parent / config).is_file():
            return _assemble(weights.read(path), _json(path.parent / config), path.parent, quick_gelu)
    return _assemble(weights.read(path), {}, None, quick_gelu)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(read_bytes(path))
    except (ValueError, OSError) as error:
        raise BackboneError(f"{path} is not readable JSON ({error}): download or copy it again.") from error
    if not isinstance(content, dict):
        raise BackboneError(f"{path} is not a JSON object, as a config should be: download or copy it again.")
    return content


def _assemble(read: weights.Weights, config: dict[str, Any], folder: Path | None, quick_gelu: bool | None) -> CLIP:
    """The model, from a file's tensors and, if there are any, their config and folder."""
    # Our own layout states every size. Others are read off the tensors, which can't be wrong, with what only a config tells.
    if "vision_width" in config:
        sizes, state = _own(config), layouts.to_openai(read.tensors)
    else:
        facts = _facts(config)  # before the tensors: it refuses other architectures by name
        state = layouts.to_openai(read.tensors)
        if facts.quick_gelu is None and quick_gelu is None:
            facts = replace(facts, quick_gelu=_activation(read))
        sizes = layouts.sizes(state, facts)
    if quick_gelu is not None:
        sizes = replace(sizes, quick_gelu=quick_gelu)
    clip = _build(sizes, state)
    clip.tokenizer = _tokenizer(folder, config, sizes)
    # open_clip keeps the images' settings in its config, Hugging Face in a file of their own.
    settings = config.get("preprocess_cfg", {})
    if folder is not None and (folder / "preprocessor_config.json").is_file() and not settings:
        settings = _json(folder / "preprocessor_config.json")
    try:
        clip.preprocess = Preprocess.from_settings(settings, sizes.image_size)
    except _MISREAD as error:
        raise BackboneError(
            f"its image preprocessing settings can't be understood ({error}): get a fresh copy."
        ) from error
    return clip


def _own(config: dict[str, Any]) -> Config:
    known = {field.name for field in fields(Config)}
    try:
        return Config(**{name: value for name, value in config.items() if name in known})
    except TypeError as error:
        raise BackboneError(f"config.json lacks a size of fewclip's own layout ({error}).") from error


def _facts(config: dict[str, Any]) -> layouts.Facts:
    for sign, read in layouts.FACTS.items():
        if sign in config:
            try:
                return read(config)
            except _MISREAD as error:
                raise BackboneError(f"its config can't be understood ({error}): get a fresh copy.") from error
    if config:
        raise BackboneError(f"config.json has no model_type (it has {', '.join(list(config)[:4])}); {layouts.WANTED}.")
    return layouts.Facts()


def _activation(read: weights.Weights) -> bool:
    """Whether weights without a config need QuickGELU."""
    if read.openai:
        return True
    if "quick_gelu" in read.metadata:
        return read.metadata["quick_gelu"].lower() in ("true", "1")
    warnings.warn(
        "These weights don't state which activation they were trained with; QuickGELU is assumed, as in OpenAI's. If "
        "they are open_clip's or your own with plain GELU, accuracy suffers silently: pass quick_gelu=False "
        "(or quick_gelu=True to confirm), or give the folder with their config.",
        stacklevel=5,
    )
    return True


def _build(config: Config, state: dict[str, Tensor]) -> CLIP:
    """The model around the tensors, without filling it with initial values first."""
    # Sizes are checked first, so that a hostile config makes no model; names and shapes before a number is copied.
    _check_sizes(config, len(state))
    with outline():
        clip = CLIP(config)
    expected = {name: value.shape for name, value in clip.state_dict().items()}
    lacking = [name for name in expected if name not in state]
    if lacking:
        raise BackboneError(f"{_some(lacking)} missing (in OpenAI's names); {layouts.WANTED}.")
    if unknown := [name for name in state if name not in expected]:
        raise BackboneError(f"{_some(unknown)} unknown: the weights hold more than a CLIP; {layouts.WANTED}.")
    for name, shape in expected.items():
        if state[name].shape != shape:
            raise BackboneError(
                f"{name} has the shape {tuple(state[name].shape)}, but {tuple(shape)} would match the other weights."
            )
        if not torch.isfinite(state[name].sum()):
            raise BackboneError(f"{name} contains values that are not finite: the file is damaged.")
    clip.load_state_dict(state, assign=True)
    return clip.requires_grad_(False).eval()


def _check_sizes(config: Config, tensors: int) -> None:
    """Check that a model of these sizes can be made, and has no more layers than there are tensors."""
    sizes = {field.name: getattr(config, field.name) for field in fields(Config) if field.name != "quick_gelu"}
    if sizes["vision_mlp"] is None:
        del sizes["vision_mlp"]
    odd = [name for name, value in sizes.items() if type(value) is not int or not 0 < value <= LARGEST]
    if odd:
        raise BackboneError(f"{odd[0]} is {str(sizes[odd[0]])[:40]}, which no CLIP has; {layouts.WANTED}.")
    if config.vision_width % config.vision_heads or config.text_width % config.text_heads:
        raise BackboneError(
            f"towers {config.vision_width} and {config.text_width} wide don't divide into {config.vision_heads} and "
            f"{config.text_heads} heads; {layouts.WANTED}."
        )
    if config.vision_layers + config.text_layers > tensors or config.image_size > LARGEST_IMAGE:
        raise BackboneError(
            f"{tensors} tensors and images of {config.image_size} pixels don't make a CLIP of {config.vision_layers} and "
            f"{config.text_layers} layers; {layouts.WANTED}."
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more} {'is' if len(names) == 1 else 'are'}"


def _tokenizer(folder: Path | None, config: dict[str, Any], sizes: Config) -> Tokenizer:
    tokenizer = None if folder is None else Tokenizer.from_folder(folder)
    if tokenizer is None:
        other = config.get("model_cfg", {}).get("text_cfg", {}).get("hf_tokenizer_name")
        if other or sizes.vocab_size != CLIP_VOCABULARY:
            which = f"the tokenizer {other}" if other else f"a vocabulary of {sizes.vocab_size} tokens, not CLIP's own"
            raise BackboneError(f"the weights use {which}, and there is no tokenizer.json next to them: put it there.")
        return Tokenizer.clip()
    if tokenizer.size > sizes.vocab_size:
        raise BackboneError(
            f"the tokenizer has {tokenizer.size} tokens and the text tower {sizes.vocab_size}: they don't match."
        )
    return tokenizer


def fingerprint(clip: CLIP) -> str:
    """A sha256 of the weights (names, shapes, float32 values) and of what else decides the features.

    An adapter records it, so that it won't load on a different backbone. Computed once per model: a CLIP is frozen.
    """
    known = clip.__dict__.get("_fingerprint")
    if known is None:
        c = clip.config
        digest = hashlib.sha256(f"quick_gelu={c.quick_gelu} heads={c.vision_heads},{c.text_heads}".encode())
        for name, value in sorted(clip.state_dict().items()):
            digest.update(f"\n{name} {list(value.shape)}\n".encode())
            digest.update(value.to("cpu", torch.float32).contiguous().reshape(-1).numpy().data)
        known = clip.__dict__["_fingerprint"] = digest.hexdigest()
    return str(known)
