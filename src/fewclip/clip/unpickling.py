"""Tensors out of torch's pickled files, by an unpickler that knows how to rebuild a tensor and nothing else.

`torch.save` writes a zip archive with `data.pkl` and one entry per storage; TorchScript (OpenAI's `.pt`) writes the same with a
program next to it. Both are read here rather than by `torch.load`, whose `weights_only` unpickler lets a small file ask for
any amount of memory. What is built is never larger than the file.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from fewclip.errors import BackboneError

LONGEST_NAME = 1000
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


def read_archive(path: Path) -> Any:
    """What a zip archive of `torch.save` or TorchScript holds; of a TorchScript program its tensors, by name.

    Raises:
        BackboneError: it asks to run code, or holds no tensors.
        Exception: it is damaged; whatever that leads to.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        (pickled,) = [name for name in names if re.fullmatch(r"[^/]+/data\.pkl", name)]
        loaded = _TensorUnpickler(archive, pickled.removesuffix(".pkl"), path.stat().st_size).load()
        return _flatten(loaded) if is_program(names) else loaded


def is_program(names: Sequence[str]) -> bool:
    """Whether an archive's entries are those of TorchScript."""
    return any(name.endswith("/constants.pkl") for name in names)


class _Module:
    """Stands for every `__torch__.…` object: its attributes, and nothing that could act."""

    def __init__(self, *_: object) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.attributes = dict(state)


class _Hooks(OrderedDict[Any, Any]):
    """Stands for every OrderedDict."""


def _changing(opcode: bytes, place: int, *kinds: type) -> Callable[..., None]:
    """Pickle's own opcode, for containers of these kinds at a place of the stack (0: under the last mark) and nothing else:
    tensors, too, can be added to or given a different state."""

    def load(unpickler: Any) -> None:
        if not isinstance(unpickler.stack[place] if place else unpickler.metastack[-1][-1], kinds):
            raise pickle.UnpicklingError(f"it changes what is not a container ({opcode!r})")
        pickle._Unpickler.dispatch[opcode[0]](unpickler)

    return load


class _TensorUnpickler(pickle._Unpickler):
    """Rebuilds tensors over an archive's entries; anything else that a pickle may name is refused.

    Based on the unpickler in Python, whose table of what it has seen grows with what it sees (that in C grows with the largest
    number that a file names).
    """

    stack: list[Any]
    metastack: list[list[Any]]
    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, archive: zipfile.ZipFile, folder: str, size: int) -> None:
        self.archive, self.folder, self.left = archive, folder, size
        order = f"{folder.rpartition('/')[0]}/byteorder"
        if order in archive.namelist() and self._stored(order) != b"little":
            raise pickle.UnpicklingError("its numbers are big-endian")
        super().__init__(io.BytesIO(self._stored(f"{folder}.pkl")))
        self.storages: dict[str, Tensor] = {}

    def persistent_load(self, pid: Any) -> Tensor:
        """A storage as a flat tensor. The device that it was saved from does not matter."""
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"unknown entry {kind!r}")
        if key not in self.storages:
            data = bytearray(self._stored(f"{self.folder}/{key}"))
            if len(data) != count * dtype.itemsize:
                raise pickle.UnpicklingError(f"entry {key} has {len(data)} bytes, not {count * dtype.itemsize}")
            self.storages[key] = torch.frombuffer(data, dtype=dtype) if count else torch.empty(0, dtype=dtype)
        return self.storages[key]

    def _stored(self, name: str) -> bytes:
        """An entry's bytes. Torch never compresses them, and together they are no larger than the file."""
        entry = self.archive.getinfo(name)
        if entry.compress_type != zipfile.ZIP_STORED:
            raise pickle.UnpicklingError(f"the entry {name} is compressed, as torch never writes it")
        self.left -= entry.file_size
        if self.left < 0 or entry.file_size != entry.compress_size:
            raise pickle.UnpicklingError("its entries are larger than the file")
        return self.archive.read(entry)

    def find_class(self, module: str, name: str) -> Any:
        # Made for each file: a pickle can set attributes on what it is given.
        if module.partition(".")[0] == "__torch__":
            return type(name, (_Module,), {})
        if module == "torch":
            for storage, dtype in _STORAGES.items():
                if name in (storage, str(dtype).removeprefix("torch.")):
                    return dtype
        allowed: dict[str, Callable[..., Any]] = {
            "torch._utils._rebuild_tensor": lambda *args: _rebuild(*args[:4]),
            "torch._utils._rebuild_tensor_v2": lambda *args: _rebuild(*args[:4]),
            "torch._utils._rebuild_parameter": lambda data, *_: data,
            "torch.Size": lambda values: tuple(values),
            "torch.device": lambda *_: None,
            "collections.OrderedDict": type("Hooks", (_Hooks,), {}),
            "torch.jit._pickle.restore_type_tag": lambda value, _: value,
            "torch.jit._pickle.build_tensor_from_id": lambda _: None,
        }
        for kind in ("int", "double", "bool", "tensor"):
            allowed[f"torch.jit._pickle.build_{kind}list"] = lambda values: values
        if f"{module}.{name}" not in allowed:
            raise BackboneError(
                f"is a pickle that asks to run {module}.{name}, which fewclip never does: give a state dict of plain "
                "tensors, best as .safetensors."
            )
        return allowed[f"{module}.{name}"]

    def load_bytearray8(self) -> None:
        raise pickle.UnpicklingError("it contains a bytearray, whose memory would be reserved before it is read")

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8
    dispatch[pickle.BUILD[0]] = _changing(pickle.BUILD, -2, _Module, _Hooks)
    dispatch[pickle.SETITEM[0]] = _changing(pickle.SETITEM, -3, dict)
    dispatch[pickle.SETITEMS[0]] = _changing(pickle.SETITEMS, 0, dict)
    dispatch[pickle.ADDITEMS[0]] = _changing(pickle.ADDITEMS, 0, set)


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
        if len(name) > LONGEST_NAME:
            raise pickle.UnpicklingError("its modules are nested too deeply")
        if isinstance(value, Tensor):
            tensors[name] = value
        elif isinstance(value, _Module) and id(value) not in seen:
            seen.add(id(value))
            stack += [(f"{name}.{key}".lstrip("."), inner) for key, inner in value.attributes.items()]
    if not tensors:
        raise BackboneError("is a TorchScript archive without tensors, where a CLIP is expected.")
    return tensors
