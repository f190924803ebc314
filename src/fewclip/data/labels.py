"""Labels as users give them: text, or whole numbers that are given back as whole numbers."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from fewclip.errors import DataError

EXPECTED = "expected a class name (text) or a whole number"
LARGEST = 2**63 - 1

LabelsLike = Sequence[str | int] | np.ndarray | Tensor
"""Labels of images, or classes: text or whole numbers."""
ClassNames = Sequence[str] | Mapping[int, str]
"""Names of classes whose labels are whole numbers: label i is `names[i]`."""


class Labels(NamedTuple):
    """Labels as numbers of classes."""

    classes: list[str]
    """Names of the classes, in the sorted order of their labels."""
    numbers: list[int]
    """The label of each class where labels are whole numbers; empty where they are the names."""
    indices: list[int]
    """The class of each label."""


def read_labels(given: Iterable[Any], names: ClassNames | None = None) -> Labels:
    """The classes of some labels. Labels are all text or all whole numbers; numpy scalars and 0-d arrays and tensors count
    as what they hold.

    `names` are the names of classes whose labels are whole numbers, by default the numbers written out.

    Raises:
        DataError: something else, such as None, NaN, a float, True, or a one-hot row; or text and numbers mixed.
    """
    labels = [read_label(label, f"Label {place}") for place, label in enumerate(given)]
    kinds = {type(label) for label in labels}
    if len(kinds) > 1:
        text, number = (next(label for label in labels if isinstance(label, kind)) for kind in (str, int))
        raise DataError(f"The labels mix text ({text!r}) and whole numbers ({number}): use one of the two for all.")
    known = sorted(set(labels))
    place_of = {label: place for place, label in enumerate(known)}
    return Labels(
        classes=[class_name(label, names) for label in known],
        numbers=[label for label in known if not isinstance(label, str)],
        indices=[place_of[label] for label in labels],
    )


def read_label(label: Any, what: str) -> str | int:
    """The text or whole number that one label holds.

    Raises:
        DataError: neither of them; the sentence begins with `what`.
    """
    value = label.item() if getattr(label, "ndim", None) == 0 else label
    if isinstance(value, str):
        return str(value)
    if getattr(value, "shape", None) or isinstance(value, (list, tuple)):
        advice = "for one-hot rows give the position of the 1, such as y.argmax(axis=1), for a column y.ravel()"
        raise DataError(f"{what} is {brief(value)}, several values: {EXPECTED}; {advice}.")
    if isinstance(value, (bool, np.bool_)):
        raise DataError(f"{what} is {value}: {EXPECTED}; give the two classes names, such as 'cracked' and 'whole'.")
    try:
        number = operator.index(value)
    except TypeError:
        kind = "a continuous value" if isinstance(value, float) else type(value).__name__
        raise DataError(f"{what} is {brief(value)} ({kind}): {EXPECTED}.") from None
    if abs(number) > LARGEST:
        raise DataError(f"{what} is {number}: whole numbers are at most {LARGEST}.")
    return number


def class_name(label: str | int, names: ClassNames | None) -> str:
    """The name of the class with this label.

    Raises:
        DataError: `names` has none for this number.
    """
    if names is None or isinstance(label, str):
        return str(label)
    try:
        if label < 0 and not isinstance(names, Mapping):
            raise IndexError
        return names[label]
    except LookupError:
        raise DataError(
            f"class_names has no name for the label {label}: it names {brief(list(names))}, {len(names)} classes."
        ) from None


def brief(thing: object) -> str:
    """The thing in at most 60 characters."""
    text = repr(thing)
    return text if len(text) <= 60 else f"{text[:57]}..."
