"""A fitted classifier as an adapter on disk, and back."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fewclip.adapters.checks import build, check_settings
from fewclip.adapters.config import AdapterConfig
from fewclip.adapters.disk import save_adapter
from fewclip.adapters.hub import open_adapter
from fewclip.clip.load import fingerprint
from fewclip.clip.model import CLIP
from fewclip.errors import AdapterError
from fewclip.methods import find
from fewclip.training.processes import Processes
from fewclip.training.settings import TrainSettings

if TYPE_CHECKING:
    from fewclip.classifier import FewShotClassifier

Kind = TypeVar("Kind", bound="FewShotClassifier")


def keep(classifier: FewShotClassifier, folder: str | Path) -> None:
    """Write its trained tensors, configuration and model card."""
    config = AdapterConfig(
        method=classifier.method,
        settings=asdict(classifier.method_.settings),
        backbone=classifier.clip_.name or "unnamed",
        backbone_fingerprint=fingerprint(classifier.clip_),
        classes=classifier.trained_classes_,
        added_classes=classifier.added_classes_,
        template=classifier.template_,
        training=classifier.training_,
        train_keys=classifier.train_keys_,
    )
    save_adapter(folder, config, dict(classifier.method_.state_dict()))


def revive(
    kind: type[Kind],
    name: str | Path,
    backbone: str | CLIP | None,
    device: str | None,
    revision: str | None,
    token: str | None,
) -> Kind:
    """The classifier that was kept in the folder or repository `name`; settings of a newer version that this one doesn't
    know are left out."""
    _, config, tensors = open_adapter(name, revision, token, own_backbone=backbone is None)
    of_method = {f.name for f in fields(find(config.method).Settings)}
    of_training = {f.name for f in fields(TrainSettings)}
    trained = {k: v for k, v in config.training.get("settings", {}).items() if k in of_training}
    own = {k: v for k, v in config.settings.items() if k in of_method}
    try:
        check_settings(TrainSettings, trained)
        check_settings(find(config.method).Settings, own)
    except AdapterError as error:
        raise AdapterError(f"{name} can't be used ({error}): copy the adapter again, or fit anew.") from None
    classifier = kind(
        config.method,
        config.backbone if backbone is None else backbone,
        shots=config.training.get("shots"),
        template=config.template,
        device=device,
        **trained,
        **own,
    )
    classifier.load_backbone(Processes(device).device)
    found = fingerprint(classifier.clip_)
    if found != config.backbone_fingerprint:
        raise AdapterError(
            f"{name} was made on the backbone {config.backbone!r} (fingerprint {config.backbone_fingerprint[:12]}), but "
            f"{classifier.clip_.name or 'the one given'} is another (fingerprint {found[:12]}): load it with the backbone "
            "that it was made on."
        )
    try:
        method = build(find(config.method), classifier.clip_, classifier.split_settings()[1], tensors)
    except AdapterError as error:
        raise AdapterError(f"{name} can't be used ({error}): copy the adapter again, or fit anew.") from error
    classifier.method_ = method.to(classifier.clip_.device).eval().requires_grad_(False)
    classifier.template_ = config.template
    classifier.trained_classes_, classifier.added_classes_ = config.classes, config.added_classes
    classifier.training_, classifier.train_keys_ = config.training, config.train_keys
    classifier.history_ = config.training.get("history", [])
    classifier.seconds_ = config.training.get("seconds", 0.0)
    classifier.weights_sha256_ = config.weights_sha256
    return classifier
