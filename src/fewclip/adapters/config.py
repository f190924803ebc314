"""What adapter_config.json holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from fewclip.training.progress import EpochLog
from fewclip.version import __version__

FORMAT = 1
"""Raised when an older fewclip could no longer read what this one writes; what is merely added needs no new one."""


@dataclass(frozen=True, kw_only=True)
class TrainingSummary:
    """How an adapter was trained."""

    data: str = ""
    """Name of the data set; empty where it is not recorded."""
    shots: int | None = None
    """Training images per class; None: all."""
    images: int = 0
    """Training images; 0 where it is not recorded."""
    val_images: int = 0
    """Validation images that settings were chosen by."""
    chosen: dict[str, float] = field(default_factory=dict)
    """The settings that they chose."""
    seconds: float = 0.0
    """Time of training."""
    history: list[EpochLog] = field(default_factory=list)
    """One entry per epoch, over all stages."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The fields of `fewclip.training.settings.TrainSettings`."""


@dataclass(frozen=True, kw_only=True)
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
    training: TrainingSummary = field(default_factory=TrainingSummary)
    train_keys: list[str] = field(default_factory=list)
    """Names of the training images within their data set, so that they are left out of an evaluation on it."""
    labels: list[int] = field(default_factory=list)
    """The label of each class, trained ones and then added ones, where labels were whole numbers; empty where they are
    the names."""
    weights_sha256: str = ""
    """Checksum of the file of tensors."""
    fewclip_version: str = __version__
    format: int = FORMAT

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> AdapterConfig:
        """From the object in the file. Keys of newer versions are passed over; types are not checked.

        Raises:
            TypeError: a key is missing.
        """
        values = known(cls, raw)
        if isinstance(values.get("training"), dict):
            values["training"] = TrainingSummary(**known(TrainingSummary, values["training"]))
        return cls(**values)


def known(kind: type, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that are fields of a dataclass: a newer version may have written others."""
    return {f.name: raw[f.name] for f in fields(kind) if f.name in raw}
