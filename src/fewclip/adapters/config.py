"""What adapter_config.json holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fewclip.version import __version__

FORMAT = 1
"""Raised when an older fewclip could no longer read what this one writes; what is merely added needs no new one."""


@dataclass
class AdapterConfig:
    """The content of adapter_config.json."""

    method: str
    """Name of the method."""
    settings: dict[str, Any]
    """The method's settings."""
    backbone: str
    """Name or place of the CLIP that it was trained on."""
    backbone_fingerprint: str
    """sha256 of that CLIP's weights: `fewclip.clip.load.fingerprint`."""
    classes: list[str]
    """Classes that were trained on, in the order of their labels."""
    added_classes: list[str]
    """Classes added by name afterwards."""
    template: str
    """Sentence with `{}` for the class name."""
    training: dict[str, Any] = field(default_factory=dict)
    """Summary: shots, images, epochs, seed, learning rate, loss by epoch, seconds, fewclip's settings."""
    train_keys: list[str] = field(default_factory=list)
    """Names of the training images within their data set, so that they are left out of an evaluation on it."""
    weights_sha256: str = ""
    """Checksum of the file of tensors."""
    fewclip_version: str = __version__
    format: int = FORMAT
