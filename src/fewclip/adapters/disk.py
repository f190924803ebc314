"""An adapter on disk: what was trained, and what is needed to use it.

    adapter_model.safetensors   trained tensors only
    adapter_config.json         method, settings, backbone and its fingerprint, class names, template, training summary
    README.md                   model card

The configuration is written last and holds the weights' checksum: a folder without a configuration, or with other weights, is
not loaded. When an adapter is replaced, the new weights wait under a name made of their checksum until the new configuration
is written, so that at every moment one of the two adapters is whole. No pickle anywhere.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import asdict, replace
from pathlib import Path

from torch import Tensor

from fewclip.adapters.card import model_card
from fewclip.adapters.checks import check_config
from fewclip.adapters.config import FORMAT, AdapterConfig
from fewclip.errors import AdapterError, OutputError
from fewclip.files.lock import only_writer
from fewclip.files.read import parse_json, read_bytes
from fewclip.files.write import as_json, as_tensors, clear, move, write_files
from fewclip.version import __version__

WEIGHTS, CONFIG, CARD = "adapter_model.safetensors", "adapter_config.json", "README.md"


DRAFT = "README.hub.md"
"""The card that `fewclip push --dry-run` writes."""


LARGEST = 8 << 30
"""Bytes of an adapter's weights."""


def waiting(checksum: str) -> str:
    """File name of weights that wait for their configuration to be written."""
    return f".{WEIGHTS}.{checksum}"


OURS = (WEIGHTS, CONFIG, CARD, DRAFT, waiting("*"))
"""Patterns of the names of an adapter's files."""


READINGS = 3
"""How often files that don't belong together are read: another process may be replacing them."""


FITTED = "give the folder that `fewclip fit` wrote."


PATIENCE = 10.0
"""Seconds to wait for another process that is saving to the same folder."""


def save_adapter(folder: str | Path, config: AdapterConfig, tensors: dict[str, Tensor]) -> str:
    """Write an adapter into a folder; an adapter that it replaces stays whole until the new one is. Returns the checksum of
    the file of weights.

    Raises:
        OutputError: the folder can't be written to, or another process keeps writing there.
    """
    folder = Path(folder)
    data = as_tensors(tensors, {"format": "pt", "method": config.method})
    config = replace(config, weights_sha256=hashlib.sha256(data).hexdigest())
    card = model_card(config, sum(t.numel() for t in tensors.values())).encode(errors="backslashreplace")
    with only_writer(folder, PATIENCE):
        clear(folder, *OURS)
        place = folder / (waiting(config.weights_sha256) if (folder / CONFIG).exists() else WEIGHTS)
        write_files({place: data, folder / CARD: card, folder / CONFIG: as_json(asdict(config))})
        try:
            if place.name != WEIGHTS:
                move(place, folder / WEIGHTS)
            for stray in folder.glob(waiting("*")):
                stray.unlink()
        except OSError as error:
            raise OutputError(f"Could not finish saving to {folder}: {error.strerror or error}. Save again.") from error
    return config.weights_sha256


def read_config(folder: str | Path) -> AdapterConfig:
    """The configuration of an adapter. Keys of newer versions that this one doesn't know are ignored.

    Raises:
        AdapterError: no adapter there, one of a newer format, or a damaged configuration.
    """
    folder = Path(folder)
    if not os.path.isdir(folder):
        raise AdapterError(
            f"There is no adapter folder {folder}: give the folder that `fewclip fit … -o FOLDER` wrote."
        )
    path = folder / CONFIG
    if not path.is_file():
        raise AdapterError(f"{folder} is not a finished adapter, {CONFIG} is missing: {FITTED}")
    try:
        raw = parse_json(read_bytes(path))
    except (ValueError, OSError) as error:
        raise _damaged(path, error) from error
    if not isinstance(raw, dict) or "backbone_fingerprint" not in raw:
        raise AdapterError(
            f"{path} can't be read as an adapter of fewclip (it lacks backbone_fingerprint; other libraries use the same "
            "file name): give a folder that `fewclip fit` wrote."
        )
    if isinstance(raw.get("format"), int) and raw["format"] > FORMAT:
        raise AdapterError(
            f"{folder} has adapter format {raw['format']} of fewclip {raw.get('fewclip_version')}, but fewclip "
            f"{__version__} reads formats up to {FORMAT}: upgrade fewclip."
        )
    try:
        config = AdapterConfig.parse(raw)
        check_config(config)
    except (TypeError, AdapterError) as error:
        raise _damaged(path, error) from error
    return config


def _damaged(path: Path, error: Exception) -> AdapterError:
    return AdapterError(f"{path} can't be read ({error}): copy the adapter again, or fit again.")


def read_adapter(folder: str | Path) -> tuple[AdapterConfig, bytes]:
    """The configuration of an adapter and the bytes of the weights that belong to it.

    Raises:
        AdapterError: no adapter there, one of a newer format, or a damaged one.
    """
    folder = Path(folder)
    for _ in range(READINGS):
        config = read_config(folder)
        data = _weights(folder, str(config.weights_sha256))
        if data is not None:
            return config, data
    raise AdapterError(
        f"{folder / WEIGHTS} is truncated or was changed: its checksum is not the one in {CONFIG}. Copy the adapter again, or "
        "fit again."
    )


def _weights(folder: Path, checksum: str) -> bytes | None:
    """The bytes of the weights with this checksum; None if there are only others.

    Raises:
        AdapterError: no weights at all.
    """
    names = [WEIGHTS, waiting(checksum)] if re.fullmatch("[0-9a-f]{64}", checksum) else [WEIGHTS]
    present = [folder / name for name in names if (folder / name).is_file()]
    if not present:
        raise AdapterError(f"{folder} is not a finished adapter, {WEIGHTS} is missing: {FITTED}")
    for place in present:
        try:
            data = read_bytes(place, LARGEST)
        except FileNotFoundError:  # another process has just renamed it
            continue
        except OSError as error:
            raise AdapterError(f"{place} can't be read ({error.strerror}): copy the adapter again.") from error
        if hashlib.sha256(data).hexdigest() == checksum:
            return data
    return None


def load_adapter(folder: str | Path) -> tuple[AdapterConfig, dict[str, Tensor]]:
    """The configuration of an adapter and its tensors.

    Raises:
        AdapterError: as `read_adapter`, or weights that are not a safetensors file.
    """
    config, data = read_adapter(folder)
    return config, tensors_of(data, Path(folder) / WEIGHTS)


def tensors_of(data: bytes, path: Path) -> dict[str, Tensor]:
    """The tensors in the bytes of the weights' file.

    Raises:
        AdapterError
    """
    from safetensors.torch import load

    try:
        return load(data)
    except Exception as error:  # a damaged file can make its reader raise anything
        raise AdapterError(f"{path} is not a safetensors file ({error}): fit again.") from error
