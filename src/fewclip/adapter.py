"""An adapter on disk: what was trained, and what is needed to use it.

    adapter_model.safetensors   trained tensors only
    adapter_config.json         method, settings, backbone and its fingerprint, class names, template, training summary
    README.md                   model card

The configuration is written last and holds the weights' checksum: a folder without it, or with another one's weights,
is not loaded. No pickle anywhere.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from fewclip.adapter_checks import check_config
from fewclip.errors import AdapterError
from fewclip.files import write_json, write_tensors, write_text
from fewclip.reading import parse_json, read_bytes
from fewclip.version import __version__

WEIGHTS, CONFIG, CARD = "adapter_model.safetensors", "adapter_config.json", "README.md"
FORMAT = 1
LARGEST = 8 << 30
"""Bytes of an adapter's weights."""


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
    """Write an adapter into a folder; its files are replaced whole, the configuration last.

    Raises:
        OutputError: the place can't be written to.
    """
    folder = Path(folder)
    data = write_tensors(folder / WEIGHTS, tensors, {"format": "pt", "method": config.method})
    config.weights_sha256 = hashlib.sha256(data).hexdigest()
    write_text(folder / CARD, model_card(config, sum(t.numel() for t in tensors.values())))
    write_json(folder / CONFIG, asdict(config))


def load_adapter(folder: str | Path) -> tuple[AdapterConfig, dict[str, Tensor]]:
    """Read an adapter. Keys of newer versions that this one doesn't know are passed over.

    Raises:
        AdapterError: no adapter there, or a damaged one.
    """
    from safetensors.torch import load

    folder = Path(folder)
    if not os.path.isdir(folder):
        raise AdapterError(
            f"There is no adapter folder {folder}: give the folder that `fewclip fit … -o FOLDER` wrote."
        )
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise AdapterError(
                f"{folder} is no finished adapter, {name} is missing: give the folder that `fewclip fit` wrote."
            )
    try:
        raw = parse_json(read_bytes(folder / CONFIG))
        known = {key: raw[key] for key in AdapterConfig.__dataclass_fields__ if key in raw}
        config = AdapterConfig(**known)
        if not isinstance(config.format, int) or config.format <= FORMAT:
            check_config(config)
    except (ValueError, TypeError, OSError, AdapterError) as error:
        raise AdapterError(
            f"{folder / CONFIG} can't be read ({error}): copy the adapter again, or fit anew."
        ) from error
    if config.format > FORMAT:
        raise AdapterError(
            f"{folder} has adapter format {config.format} of fewclip {config.fewclip_version}, but fewclip {__version__} "
            f"reads formats up to {FORMAT}: upgrade fewclip."
        )
    try:
        data = read_bytes(folder / WEIGHTS, LARGEST)
    except OSError as error:
        raise AdapterError(f"{folder / WEIGHTS} can't be read ({error.strerror}): copy the adapter again.") from error
    if hashlib.sha256(data).hexdigest() != config.weights_sha256:
        raise AdapterError(
            f"{folder / WEIGHTS} is truncated or was changed: its checksum is not the one in {CONFIG}. Copy the adapter "
            "again, or fit anew."
        )
    try:
        return config, load(data)
    except Exception as error:  # a damaged file can make its reader raise anything
        raise AdapterError(f"{folder / WEIGHTS} is no safetensors file ({error}): fit anew.") from error


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
