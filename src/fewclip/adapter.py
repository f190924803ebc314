"""An adapter on disk: what was trained, and what is needed to use it.

    adapter_model.safetensors   trained tensors only
    adapter_config.json         method, settings, backbone and its fingerprint, class names, template, training summary
    README.md                   model card

The configuration is written last and holds the weights' checksum: a folder without it, or with another one's weights,
is not loaded. Where an adapter is replaced, the new weights wait under a name made of their checksum until the new
configuration is there, so that at every moment one of the two adapters is whole. No pickle anywhere.
"""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from fewclip.errors import AdapterError, OutputError
from fewclip.files import as_json, as_tensors, clear, move, write_files
from fewclip.outputs import only_writer
from fewclip.version import __version__

WEIGHTS, CONFIG, CARD = "adapter_model.safetensors", "adapter_config.json", "README.md"
FORMAT = 1


def waiting(checksum: str) -> str:
    """Name of weights that were written before their configuration."""
    return f".{WEIGHTS}.{checksum}"


OURS = (WEIGHTS, CONFIG, CARD, waiting("*"))
"""Patterns of the names of an adapter's files."""
READINGS = 3
"""How often files that don't belong together are read again: another process may be replacing them."""
FITTED = "give the folder that `fewclip fit` wrote."
PATIENCE = 10.0
"""Seconds to wait for another process that is saving to the same folder."""


@dataclass
class AdapterConfig:
    """The content of adapter_config.json."""

    method: str
    settings: dict[str, Any]
    backbone: str
    backbone_fingerprint: str
    classes: list[str]
    """Classes that were trained on, in the order of their labels."""
    added_classes: list[str]
    """Classes added by name afterwards."""
    template: str
    training: dict[str, Any] = field(default_factory=dict)
    """Summary: shots, images, epochs, seed, learning rate, loss by epoch, seconds, fewclip's settings."""
    train_keys: list[str] = field(default_factory=list)
    """Names of the training images within their data set, so that they are left out of an evaluation on it."""
    weights_sha256: str = ""
    fewclip_version: str = __version__
    format: int = FORMAT


def save_adapter(folder: str | Path, config: AdapterConfig, tensors: dict[str, Tensor]) -> None:
    """Write an adapter into a folder; one that was there stays whole until the new one is.

    Raises:
        OutputError: the place can't be written to, or another process goes on writing there.
    """
    folder = Path(folder)
    data = as_tensors(tensors, {"format": "pt", "method": config.method})
    config.weights_sha256 = hashlib.sha256(data).hexdigest()
    card = model_card(config, sum(t.numel() for t in tensors.values())).encode()
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


def load_adapter(folder: str | Path) -> tuple[AdapterConfig, dict[str, Tensor]]:
    """Read an adapter. Keys of newer versions that this one doesn't know are passed over.

    Raises:
        AdapterError: no adapter there, or a damaged one.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    folder = Path(folder)
    for _ in range(READINGS):
        config, data = _read(folder)
        if data is not None:
            break
    else:
        raise AdapterError(
            f"{folder / WEIGHTS} is truncated or was changed: its checksum is not the one in {CONFIG}. Copy the adapter "
            "again, or fit anew."
        )
    try:
        return config, load(data)
    except SafetensorError as error:
        raise AdapterError(f"{folder / WEIGHTS} is no safetensors file ({error}): fit anew.") from error


def _read(folder: Path) -> tuple[AdapterConfig, bytes | None]:
    """The configuration, and the bytes of its weights; None if there are only others."""
    if not folder.is_dir():
        raise AdapterError(
            f"There is no adapter folder {folder}: give the folder that `fewclip fit … -o FOLDER` wrote."
        )
    if not (folder / CONFIG).is_file():
        raise AdapterError(f"{folder} is no finished adapter, {CONFIG} is missing: {FITTED}")
    try:
        raw = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        known = {key: raw[key] for key in AdapterConfig.__dataclass_fields__ if key in raw}
        config = AdapterConfig(**known)
    except (ValueError, TypeError) as error:
        raise AdapterError(
            f"{folder / CONFIG} can't be read ({error}): copy the adapter again, or fit anew."
        ) from error
    if config.format > FORMAT:
        raise AdapterError(
            f"{folder} has adapter format {config.format} of fewclip {config.fewclip_version}, but fewclip {__version__} "
            f"reads formats up to {FORMAT}: upgrade fewclip."
        )
    checksum = str(config.weights_sha256)
    names = [WEIGHTS, waiting(checksum)] if re.fullmatch("[0-9a-f]{64}", checksum) else [WEIGHTS]
    present = [folder / name for name in names if (folder / name).is_file()]
    if not present:
        raise AdapterError(f"{folder} is no finished adapter, {WEIGHTS} is missing: {FITTED}")
    for place in present:
        with suppress(FileNotFoundError):  # another process has just renamed it
            data = place.read_bytes()
            if hashlib.sha256(data).hexdigest() == checksum:
                return config, data
    return config, None


def model_card(config: AdapterConfig, parameters: int) -> str:
    """The README.md of an adapter, with the metadata that the Hugging Face hub reads."""
    t = config.training
    classes = ", ".join(config.classes[:50]) + (f", … ({len(config.classes)})" if len(config.classes) > 50 else "")
    settings = "\n".join(f"| `{k}` | {v} |" for k, v in (config.settings | t.get("settings", {})).items())
    result = "".join(f"* {name}: {value}\n" for name, value in t.get("results", {}).items()) or "* not evaluated\n"
    return f"""---
library_name: fewclip
base_model: {config.backbone}
tags: [fewclip, {config.method}, clip, few-shot]
---
# {config.method} adapter for {config.backbone}

{parameters:,} trained numbers that adapt a frozen CLIP to {len(config.classes)} classes
({t.get("shots") or "all"} images a class, {t.get("images", 0)} in all). CLIP's own weights are not in this folder.

* Classes: {classes}
* Template: `{config.template}`
* Backbone fingerprint: `{config.backbone_fingerprint[:16]}…`
* Data: {t.get("data", "not recorded")}
* Trained in {t.get("seconds", 0):.0f} s with fewclip {config.fewclip_version}

## Use

```python
from fewclip import FewShotClassifier
classifier = FewShotClassifier.load("this folder")
classifier.predict(["image.jpg"])
classifier.predict_proba(["image.jpg"], classes=["a known class", "a new class"])
```

Classes that were not trained are scored by name, as CLIP does it.

## Results

{result}
## Settings

| setting | value |
|---|---|
{settings}

## Licence

State the licence of the training images and of the backbone here before you share this adapter.
"""
