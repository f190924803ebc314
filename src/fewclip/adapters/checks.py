"""What an adapter that somebody else made must satisfy before it is used."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fewclip.clip.templates import find_template
from fewclip.data.names import check_names
from fewclip.errors import AdapterError, FewclipError, PromptError

if TYPE_CHECKING:
    from fewclip.adapters.config import AdapterConfig
    from fewclip.clip.model import CLIP
    from fewclip.methods.base import Method

_FACTORIES = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.arange, torch.linspace}
LARGEST = 1_000_000
"""A method's settings are numbers up to this."""
LONGEST_TEMPLATE = 1000


def fits(value: Any, hint: Any) -> bool:
    """Whether a value of JSON is of an annotated type; whole numbers are floats, too, and lists tuples."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in inner)
    if origin in (Union, types.UnionType):
        return any(fits(value, part) for part in inner)
    if origin is tuple:
        return isinstance(value, (list, tuple)) and all(fits(item, inner[0]) for item in value)
    if origin is list:
        return isinstance(value, list) and all(fits(item, inner[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(item, inner[1]) for item in value.values())
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and _moderate(value)
    if hint is int:
        return type(value) is int and _moderate(value)
    return type(value) is (type(None) if hint is None else hint)


def _moderate(value: float) -> bool:
    """Neither endless nor too large for a float."""
    return abs(value) < 1e300 and (isinstance(value, int) or math.isfinite(value))


def check_config(config: AdapterConfig) -> None:
    """That every value is of its type, and that class names and the template are such that prompts can be made of them.

    Raises:
        AdapterError: says what is wrong, without the adapter's name.
    """
    _check_types(config)
    _check_types(config.training, "training.")
    try:
        check_names(config.classes + config.added_classes, where="the adapter", repeats=True)
        find_template(config.template)
    except PromptError as error:
        raise AdapterError(str(error)) from None
    if len(config.template) > LONGEST_TEMPLATE or not config.template.isprintable():
        raise AdapterError(f"its template has {len(config.template)} characters or odd ones")
    if not config.classes:
        raise AdapterError("it names no classes")


def _check_types(values: Any, before: str = "") -> None:
    hints = get_type_hints(type(values))
    for field in fields(values):
        value = getattr(values, field.name)
        if not fits(value, hints[field.name]):
            raise AdapterError(f"{before}{field.name} is {str(value)[:40]!r}")


def check_settings(settings: type, values: Mapping[str, Any]) -> None:
    """That values are of the types of a dataclass of settings, and no number is beyond all reason.

    Raises:
        AdapterError: says which is not, without the adapter's name.
    """
    hints = get_type_hints(settings)
    for name, value in values.items():
        large = isinstance(value, (int, float)) and abs(value) > LARGEST and name != "seed"
        if large or not fits(value, hints[name]):
            raise AdapterError(f"the setting {name} is {str(value)[:40]!r}")


class _Budget(TorchFunctionMode):
    """While it is entered, so many numbers can be made and so many operations done."""

    def __init__(self, given: int) -> None:
        super().__init__()
        self.numbers, self.operations = 8 * given + 100_000_000, 100_000

    def __torch_function__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations -= 1
        if func in _FACTORIES:
            first = args[0] if args and isinstance(args[0], (tuple, list)) else args
            self._spend(math.prod(size for size in first if type(size) is int))
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and func not in _FACTORIES:
            self._spend(made.numel())
        return made

    def _spend(self, numbers: int) -> None:
        self.numbers -= numbers
        if min(self.numbers, self.operations) < 0:
            raise AdapterError("its settings ask for far more numbers than it has")


def build(kind: type[Method], clip: CLIP, settings: Any, tensors: Mapping[str, Tensor], classes: int) -> Method:
    """The method with the adapter's tensors. Settings that ask for far more numbers than the adapter has are refused while
    it is made.

    Raises:
        AdapterError: settings or tensors that are not the method's; without the adapter's name.
    """
    try:
        with _Budget(sum(tensor.numel() for tensor in tensors.values())):
            method = kind(clip, settings, classes)
    except FewclipError:
        raise
    except Exception as error:
        raise AdapterError(f"its settings make no {kind.name} ({error})") from error
    fresh = {name: bool(torch.isfinite(tensor).all()) for name, tensor in method.state_dict().items()}
    for name, tensor in tensors.items():
        if fresh.get(name) and not torch.isfinite(tensor).all():
            raise AdapterError(f"{name} holds numbers that are not finite")
    try:
        method.load_state_dict(tensors)
    except Exception as error:
        raise AdapterError(f"its tensors are not those of {kind.name} on this backbone: {error}") from error
    return method
