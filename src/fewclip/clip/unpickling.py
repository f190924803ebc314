"""Tensors out of torch's pickled files, by an unpickler that knows how to rebuild a tensor and nothing else.

`torch.save` writes a zip archive with `data.pkl` and one entry a storage, TorchScript (OpenAI's `.pt`) the same with a
program beside it, and torch before 1.6 several pickles with the storages behind them. All are read here, and none by
`torch.load`: its `weights_only` unpickler lets a small file ask for any amount of memory. What is built is never more
than the file holds.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import torch
from torch import Tensor

from fewclip.errors import BackboneError

LONGEST_NAME = 1000
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
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
        loaded = _ArchiveUnpickler(archive, pickled.removesuffix(".pkl"), path.stat().st_size).load()
        return _flatten(loaded) if is_program(names) else loaded


def is_program(names: Sequence[str]) -> bool:
    """Whether an archive's entries are those of TorchScript."""
    return any(name.endswith("/constants.pkl") for name in names)


def read_old(path: Path) -> Any:
    """What a file of torch before 1.6 holds.

    Raises:
        As `read_archive`.
    """
    size = path.stat().st_size
    with path.open("rb") as opened:
        file = _Bounded(opened, size)
        if _TensorUnpickler(file).load() != _MAGIC or _TensorUnpickler(file).load() != _PROTOCOL:
            raise pickle.UnpicklingError("it is neither safetensors nor a file written by torch.save")
        if not _TensorUnpickler(file).load()["little_endian"]:
            raise pickle.UnpicklingError("its numbers are big-endian")
        data = _OldUnpickler(file, size)
        loaded = data.load()
        for key in _TensorUnpickler(file).load():
            storage = data.storages[key]
            (count,) = struct.unpack("<q", file.read(8))
            if count != len(storage):
                raise pickle.UnpicklingError(f"the storage {key} has {count} numbers, not {len(storage)}")
            if count:
                storage.copy_(torch.frombuffer(bytearray(file.read(storage.nbytes)), dtype=storage.dtype))
        return loaded


class _Bounded:
    """A file that gives what was asked for, or fails before it makes room for it."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.left = file, size

    def read(self, count: int) -> bytes:
        if not 0 <= count <= self.left:
            raise EOFError("it ends too early")
        self.left -= count
        return self.file.read(count)

    def readline(self) -> bytes:
        line = self.file.readline(self.left)
        self.left -= len(line)
        return line


class _Module:
    """What stands for every `__torch__.…` object: its attributes, and nothing that could act."""

    def __init__(self, *_: object) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.attributes = dict(state)


class _Hooks(OrderedDict[Any, Any]):
    """What stands for every OrderedDict."""


class _TensorUnpickler(pickle._Unpickler):
    """The unpickler in Python, whose table of what it has seen grows with what it sees (that in C grows with the largest
    number that a file names). Any other thing than a tensor that a pickle may name is refused."""

    stack: list[Any]
    metastack: list[list[Any]]
    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        # Made anew for each file: a pickle can set attributes on what it is given.
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

    def persistent_load(self, pid: Any) -> Tensor:
        raise pickle.UnpicklingError("a storage where none belongs")

    def _only(self, opcode: bytes, place: int, kinds: tuple[type, ...]) -> None:
        """Refuse to change what is no container: a tensor, too, can be added to or given another state."""
        if not isinstance(self.stack[place] if place else self.metastack[-1][-1], kinds):
            raise pickle.UnpicklingError(f"it changes what is no container ({opcode!r})")

    def load_build(self) -> None:
        self._only(pickle.BUILD, -2, (_Module, _Hooks))
        super().load_build()  # type: ignore[misc]

    def load_setitem(self) -> None:
        self._only(pickle.SETITEM, -3, (dict,))
        super().load_setitem()  # type: ignore[misc]

    def load_setitems(self) -> None:
        self._only(pickle.SETITEMS, 0, (dict,))
        super().load_setitems()  # type: ignore[misc]

    def load_additems(self) -> None:
        self._only(pickle.ADDITEMS, 0, (set,))
        super().load_additems()  # type: ignore[misc]

    def load_bytearray8(self) -> None:
        raise pickle.UnpicklingError("it holds a bytearray, for which room is made before it is read")

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.ADDITEMS[0]] = load_additems


class _ArchiveUnpickler(_TensorUnpickler):
    """Rebuilds tensors over an archive's entries."""

    def __init__(self, archive: zipfile.ZipFile, folder: str, size: int) -> None:
        self.archive, self.folder, self.left = archive, folder, size
        order = f"{folder.rpartition('/')[0]}/byteorder"
        if order in archive.namelist() and self._stored(order) != b"little":
            raise pickle.UnpicklingError("its numbers are big-endian")
        super().__init__(io.BytesIO(self._stored(f"{folder}.pkl")))
        self.storages: dict[str, Tensor] = {}

    def persistent_load(self, pid: Any) -> Tensor:
        """A storage as a flat tensor. Where it lived when it was saved does not matter."""
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
        """An entry's bytes: not compressed, as torch never does, and all together no more than the file has."""
        entry = self.archive.getinfo(name)
        if entry.compress_type != zipfile.ZIP_STORED:
            raise pickle.UnpicklingError(f"the entry {name} is compressed, as torch never writes it")
        self.left -= entry.file_size
        if self.left < 0 or entry.file_size != entry.compress_size:
            raise pickle.UnpicklingError("its entries are larger than the file")
        return self.archive.read(entry)


class _OldUnpickler(_TensorUnpickler):
    """Rebuilds tensors over storages that follow behind the pickles."""

    def __init__(self, file: _Bounded, size: int) -> None:
        super().__init__(file)
        self.left = size
        self.storages: dict[str, Tensor] = {}

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key, _, count, view = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or type(count) is not int or count < 0:
            raise pickle.UnpicklingError(f"unknown entry {kind!r}")
        if key not in self.storages:
            self.left -= count * dtype.itemsize
            if self.left < 0:
                raise pickle.UnpicklingError("its storages are larger than the file")
            self.storages[key] = torch.zeros(count, dtype=dtype)
        if view is None:
            return self.storages[key]
        _, offset, length = view
        return self.storages[key][offset : offset + length]


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
