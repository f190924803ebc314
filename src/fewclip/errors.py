"""What fewclip raises for a mistake in its input: one sentence on what was given, what was expected, and how to fix it.

The command line prints the sentence and exits with status 2; anything else is a bug of ours and keeps its traceback.
"""

import sys
from typing import Any

LONGEST = 2000
"""Characters of a message."""


def visible(text: object) -> str:
    """Text in one line, with its unprintable characters (controls, escape sequences, line ends, changes of direction, halves
    of characters) spelt out as escapes. The one place that makes untrusted text safe to print."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def _cut(text: str) -> str:
    """The text, or its beginning and its end."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 300]} … {text[-290:]}"


class FewclipError(Exception):
    """Any mistake that the caller can fix. Its message is one line of visible characters, of bounded length."""

    def __init__(self, message: str = "") -> None:
        # Cut twice: first so that spelling out takes bounded time, then because escapes are longer than what they stand for.
        super().__init__(_cut(visible(_cut(message))))


class BackboneError(FewclipError):
    """A backbone that can't be found, read or used."""


class DataError(FewclipError, ValueError):
    """Images, folders, labels or class names that can't be used."""


class TooLargeError(DataError):
    """An image of more pixels than are decoded."""


class PromptError(FewclipError, ValueError):
    """A class name or template that makes no usable prompt."""


class SettingsError(FewclipError, ValueError):
    """An unknown method, or a setting out of its range."""


class AdapterError(FewclipError):
    """A saved adapter that is damaged or belongs to a different backbone."""


class OutputError(FewclipError):
    """A place that can't be written to."""


class TrainingError(FewclipError):
    """Training that can't continue, such as a loss that is not finite."""


class NotFittedError(FewclipError, ValueError, AttributeError):
    """A classifier that is used before `fit`. Where scikit-learn is imported, it is also scikit-learn's own
    `NotFittedError`; it is never imported for that."""

    def __new__(cls, *args: Any) -> "NotFittedError":
        theirs = getattr(sys.modules.get("sklearn.exceptions"), "NotFittedError", cls)
        kind = cls if issubclass(cls, theirs) else type(cls.__name__, (cls, theirs), {"__module__": cls.__module__})
        return super().__new__(kind, *args)

    def __reduce__(self) -> tuple[Any, ...]:
        return NotFittedError, self.args
