"""Tensors out of the files that checkpoints come in, without ever running what the file asks to run.

Two kinds of file: `.safetensors`, and what torch pickles: a state dict, or OpenAI's `.pt`, which is a TorchScript program
that contains the weights. Of pickles only the tensors are read (clip/unpickling.py), so neither the program nor the pickle
runs.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from fewclip.clip import unpickling
from fewclip.errors import BackboneError

# Entries of OpenAI's archives, and of others, that are not weights.
OPENAI_ENTRIES = ("input_resolution", "context_length", "vocab_size")
MOST_TENSORS = 20_000
SHARED, SMALL = 2, 1_000_000
"""Tensors of a file have at most `SHARED` times its bytes plus `SMALL`: some weights are saved under two names."""


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
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise BackboneError(
            f"{path} can't be read ({error.strerror or error}): give a file that you can read."
        ) from error
    if head.startswith(b"version https://git-lfs"):
        raise BackboneError(f"{path} is a Git LFS pointer, not the weights: fetch the file itself with `git lfs pull`.")
    try:
        weights = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickled(path, head)
    except BackboneError as error:
        raise BackboneError(f"{path} {error}") from None
    except Exception as error:  # a damaged file can make its reader raise anything
        raise _damaged(path, str(error).split("\n")[0] or type(error).__name__) from error
    if sum(value.numel() * value.element_size() for value in weights.tensors.values()) > SHARED * size + SMALL:
        raise _damaged(path, f"its tensors are larger than the {size:,} bytes of the file")
    return weights


def read_shards(folder: Path, index: dict[str, Any]) -> Weights:
    """The tensors of a checkpoint in several files, by its index (`weight_map`: tensor name -> file name)."""
    places = index.get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise BackboneError(f"The index of the weights in {folder} has no `weight_map`: the checkpoint is incomplete.")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(places.values())):
        if Path(name).name != name or name == "..":
            raise BackboneError(f"The index of the weights in {folder} points outside the folder, to {name!r}.")
        if not (folder / name).is_file():
            raise BackboneError(f"{folder} lacks {name}, one of the files its index lists: the download is incomplete.")
        tensors |= read(folder / name).tensors
    return Weights(tensors)


def _damaged(path: Path, reason: object) -> BackboneError:
    return BackboneError(f"{path} is damaged or incomplete ({reason}): download or copy it again.")


def _read_safetensors(path: Path) -> Weights:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        count = len(file.keys())
        if count > MOST_TENSORS:
            raise BackboneError(f"holds {count:,} tensors; a CLIP has hundreds.")
        return Weights({name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {})  # noqa: SIM118


def _read_pickled(path: Path, head: bytes) -> Weights:
    if head.startswith(b"\x80"):  # the first opcode of a bare pickle
        raise BackboneError(
            "is a bare pickle, as torch wrote before version 1.6, which fewclip does not read: load it with a current torch "
            "and save it again with torch.save, or better as .safetensors."
        )
    if not head.startswith(b"PK"):
        raise ValueError("it is neither safetensors nor an archive of torch.save")
    with zipfile.ZipFile(path) as archive:
        program = unpickling.is_program(archive.namelist())
    loaded = unpickling.read_archive(path)
    for inner in () if program else ("state_dict", "model"):  # training checkpoints keep the weights one level down
        if isinstance(loaded, dict) and isinstance(loaded.get(inner), dict):
            loaded = loaded[inner]
    if not isinstance(loaded, dict) or not any(isinstance(value, Tensor) for value in loaded.values()):
        raise BackboneError(f"holds a {type(loaded).__name__} without tensors; a state dict is expected.")
    openai = program or all(name in loaded for name in OPENAI_ENTRIES)
    return Weights({str(k): v for k, v in loaded.items() if isinstance(v, Tensor)}, openai=openai)
