"""Files that are either whole or absent: written under a temporary name, then renamed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from fewclip.errors import OutputError


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` so that `path` never holds a part of it.

    Raises:
        OutputError: the place can't be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):  # such as a file where a folder should be
            temporary.unlink()
        raise OutputError(
            f"Could not write {path}: {error.strerror or error}. Choose a place with room that you may write to."
        ) from error


def write_text(path: Path, text: str) -> None:
    """UTF-8. Halves of characters, as names of files may hold, are written as JSON's escapes."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> bytes:
    """A .safetensors file with JSON metadata; returns its bytes, which are the same for the same content."""
    from safetensors.torch import save

    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = _ordered(save(flat, {name: json.dumps(value) for name, value in meta.items()}))
    write_bytes(path, data)
    return data


def _ordered(data: bytes) -> bytes:
    """The file with its metadata sorted: safetensors writes them in an order that differs from call to call."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + size :]
