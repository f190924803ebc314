"""What an untrusted adapter must satisfy before it is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_type_hints

import torch
from torch import Tensor

from fewclip.clip.model import CLIP
from fewclip.clip.outline import outline
from fewclip.clip.templates import find_template
from fewclip.data.names import check_names
from fewclip.errors import AdapterError, FewclipError, PromptError
from fewclip.methods.settings import fits

if TYPE_CHECKING:
    from fewclip.adapters.config import AdapterConfig
    from fewclip.methods.base import Method

LARGEST = 1_000_000
"""A method's settings are numbers up to this."""
LONGEST_TEMPLATE = 1000
MOST_CONSTANTS = 10_000_000
"""Numbers of a method that are not in the adapter's file: buffers that are computed from its settings."""


def check_config(config: AdapterConfig) -> None:
    """Check that every value has its type, and that prompts can be made of the class names and the template.

    Raises:
        AdapterError: what is wrong; the message lacks the adapter's name.
    """
    _check_types(type(config), vars(config), "")
    _check_types(type(config.training), vars(config.training), "training.")
    try:
        check_names(config.classes + config.added_classes, where="the adapter", repeats=True)
        find_template(config.template)
    except PromptError as error:
        raise AdapterError(str(error)) from None
    if len(config.template) > LONGEST_TEMPLATE or not config.template.isprintable():
        raise AdapterError(f"its template has {len(config.template)} characters, or characters that are not allowed")
    if not config.classes:
        raise AdapterError("it names no classes")
    if config.labels and len(set(config.labels)) != len(config.classes + config.added_classes):
        raise AdapterError(f"it has {len(set(config.labels))} labels, not one for each class")


def _check_types(kind: type, values: Mapping[str, Any], before: str) -> None:
    hints = get_type_hints(kind)
    for name, value in values.items():
        if not fits(value, hints[name]):
            raise AdapterError(f"{before}{name} is {str(value)[:40]!r}")


def check_settings(settings: type, values: Mapping[str, Any]) -> None:
    """Check that values have the types of a dataclass of settings, and that no number is unreasonably large.

    Raises:
        AdapterError: a value that is not; the message lacks the adapter's name.
    """
    _check_types(settings, values, "the setting ")
    for name, value in values.items():
        if isinstance(value, (int, float)) and abs(value) > LARGEST and name != "seed":
            raise AdapterError(f"the setting {name} is {str(value)[:40]!r}")


def build(kind: type[Method], clip: CLIP, settings: Any, tensors: Mapping[str, Tensor], classes: int) -> Method:
    """The method with the adapter's tensors.

    Memory is bounded by the tensors that the adapter has: the method is made without numbers first, and only if its settings
    lead to those very shapes, it is made.

    Raises:
        AdapterError: settings or tensors that are not the method's; without the adapter's name.
    """
    try:
        with outline():
            shapes = kind(CLIP(clip.config), settings, classes)
    except FewclipError:
        raise
    except Exception as error:
        raise AdapterError(f"its settings are not valid for {kind.name} ({error})") from error
    _load(shapes, tensors, assign=True)
    if sum(tensor.numel() for tensor in shapes.buffers() if tensor.is_meta) > MOST_CONSTANTS:
        raise AdapterError("its settings ask for far more parameters than it contains")
    method = kind(clip, settings, classes)
    fresh = {name: bool(torch.isfinite(tensor).all()) for name, tensor in method.state_dict().items()}
    for name, tensor in tensors.items():
        if fresh.get(name) and not torch.isfinite(tensor).all():
            raise AdapterError(f"{name} contains values that are not finite")
    _load(method, tensors)
    return method


def _load(method: Method, tensors: Mapping[str, Tensor], *, assign: bool = False) -> None:
    try:
        method.load_state_dict(tensors, assign=assign)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise AdapterError(f"its tensors are not those of {method.name} on this backbone: {reason}") from error
