"""Tensors out of the files that checkpoints come in, without ever running what the file asks to run.

Three kinds of file: `.safetensors`; a pickled state dict, through torch's `weights_only` loader; and OpenAI's `.pt`,
which is a TorchScript program with the weights inside. Of that one only the tensors are read, by an unpickler that
knows how to rebuild a tensor and nothing else, so neither the program nor a pickle can act.
"""

from __future__ import annotations

import math
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewclip.errors import BackboneError

# What OpenAI's archives hold beside the weights, and others hold that is no weight.
OPENAI_ENTRIES = ("input_resolution", "context_length", "vocab_size")

_STORAGES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


@dataclass
class Weights:
    """A file's tensors by name, its metadata (safetensors), and whether it is an archive as OpenAI ships them."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)
    openai: bool = False


def read(path: Path) -> Weights:
    """The tensors of one file.

    Raises:
        BackboneError: the file is damaged, holds no state dict, or asks to run code.
    """
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"version https://git-lfs"):
        raise BackboneError(f"{path} is a Git LFS pointer, not the weights: fetch the file itself with `git lfs pull`.")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if head.startswith(b"PK") and _is_torchscript(path):
        return Weights(_read_torchscript(path), openai=True)
    return _read_pickle(path)


def read_shards(folder: Path, index: dict[str, Any]) -> Weights:
    """The tensors of a checkpoint in several files, by its index (`weight_map`: tensor name -> file name)."""
    places = index.get("weight_map")
    if not isinstance(places, dict) or not places:
        raise BackboneError(f"The index of the weights in {folder} has no `weight_map`: the checkpoint is incomplete.")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(places.values())):
        if Path(name).name != name:
            raise BackboneError(f"The index of the weights in {folder} points outside the folder, to {name!r}.")
        if not (folder / name).is_file():
            raise BackboneError(f"{folder} lacks {name}, one of the files its index lists: the download is incomplete.")
        tensors |= read(folder / name).tensors
    return Weights(tensors)


def _damaged(path: Path, reason: object) -> BackboneError:
    return BackboneError(f"{path} is damaged or incomplete ({reason}): download or copy it again.")


def _read_safetensors(path: Path) -> Weights:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return Weights({name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _read_pickle(path: Path) -> Weights:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if asked is None:
            raise _damaged(path, "it is neither safetensors nor a file written by torch.save") from error
        raise BackboneError(
            f"{path} is a pickle that asks to run {asked[1]}, which fewclip never does: "
            "give a state dict of plain tensors, best as .safetensors."
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise _damaged(path, str(error).split("\n")[0] or type(error).__name__) from error
    for inner in ("state_dict", "model"):  # training checkpoints keep the weights one level down
        if isinstance(loaded, dict) and isinstance(loaded.get(inner), dict):
            loaded = loaded[inner]
    if not isinstance(loaded, dict) or not any(isinstance(value, Tensor) for value in loaded.values()):
        raise BackboneError(f"{path} holds a {type(loaded).__name__} without tensors, where a state dict is expected.")
    openai = all(name in loaded for name in OPENAI_ENTRIES)
    return Weights({str(k): v for k, v in loaded.items() if isinstance(v, Tensor)}, openai=openai)


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except zipfile.BadZipFile as error:
        raise _damaged(path, error) from error


def _read_torchscript(path: Path) -> dict[str, Tensor]:
    """The state dict of a TorchScript archive: `data.pkl` is its tree of modules, `data/N` are its storages."""
    try:
        with zipfile.ZipFile(path) as archive:
            (pickled,) = [name for name in archive.namelist() if re.fullmatch(r"[^/]+/data\.pkl", name)]
            root = _TensorUnpickler(archive, pickled.removesuffix(".pkl")).load()
            return _flatten(root)
    except BackboneError as error:
        raise BackboneError(f"{path} {error}") from None
    except Exception as error:  # a damaged pickle can make the unpickler raise anything
        raise _damaged(path, error or type(error).__name__) from error


class _Module:
    """What stands for every `__torch__.…` object: its attributes, and nothing that could act."""

    def __init__(self, *_: object) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.attributes = dict(state)


class _TensorUnpickler(pickle.Unpickler):
    """Rebuilds tensors over the archive's own bytes. Any other thing that a pickle may name is refused."""

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(BytesIO(_stored(archive, f"{folder}.pkl")))
        self.archive, self.folder = archive, folder
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        # Made anew for each file: a pickle can set attributes on what it is given.
        if module.partition(".")[0] == "__torch__":
            return type(name, (_Module,), {})
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        allowed: dict[str, Callable[..., Any]] = {
            "torch._utils._rebuild_tensor_v2": lambda *args: _rebuild(*args[:4]),
            "torch._utils._rebuild_parameter": lambda data, *_: data,
            "collections.OrderedDict": type("Hooks", (OrderedDict,), {}),
            "torch.jit._pickle.restore_type_tag": lambda value, _: value,
            "torch.jit._pickle.build_tensor_from_id": lambda _: None,
        }
        for kind in ("int", "double", "bool", "tensor"):
            allowed[f"torch.jit._pickle.build_{kind}list"] = lambda values: values
        if f"{module}.{name}" not in allowed:
            raise BackboneError(
                f"asks to run {module}.{name}, which fewclip never does: give a state dict of plain tensors instead."
            )
        return allowed[f"{module}.{name}"]

    def persistent_load(self, pid: Any) -> Tensor:
        """A storage as a flat tensor. Where it lived when it was saved does not matter."""
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"unknown entry {kind!r}")
        if key not in self.storages:
            data = bytearray(_stored(self.archive, f"{self.folder}/{key}"))
            if len(data) != count * dtype.itemsize:
                raise pickle.UnpicklingError(f"entry {key} has {len(data)} bytes, not {count * dtype.itemsize}")
            self.storages[key] = torch.frombuffer(data, dtype=dtype) if count else torch.empty(0, dtype=dtype)
        return self.storages[key]


def _stored(archive: zipfile.ZipFile, name: str) -> bytes:
    """An entry's bytes, as long as they are no more than the file holds: torch doesn't compress what is read here."""
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise pickle.UnpicklingError(f"the entry {name} is compressed, as torch never writes it")
    return archive.read(name)


def _rebuild(storage: Tensor, offset: int, size: Sequence[int], stride: Sequence[int]) -> Tensor:
    if math.prod(size) > len(storage):
        raise pickle.UnpicklingError(f"a tensor of {tuple(size)} over {len(storage)} numbers")
    return storage.as_strided(tuple(size), tuple(stride), offset)


def _flatten(root: object) -> dict[str, Tensor]:
    """The tensors in a tree of modules, by dotted name."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    stack = [("", root)]
    while stack:
        name, value = stack.pop()
        if isinstance(value, Tensor):
            tensors[name] = value
        elif isinstance(value, _Module) and id(value) not in seen:
            seen.add(id(value))
            stack += [(f"{name}.{key}".lstrip("."), inner) for key, inner in value.attributes.items()]
    if not tensors:
        raise BackboneError("is a TorchScript archive without tensors, where a CLIP is expected.")
    return tensors
