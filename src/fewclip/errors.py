"""What fewclip raises for a mistake in its input: one sentence that says what was given, what was expected, how to mend it.

The command line prints the sentence and exits with status 2; anything else is a bug of ours and keeps its traceback.
"""

LONGEST = 2000
"""Characters of a message."""


def visible(text: str) -> str:
    """Text whose control characters, escape sequences, line ends and changes of direction are spelt out."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _cut(text: str) -> str:
    """The text, or its beginning and its end."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 300]} … {text[-290:]}"


class FewclipError(Exception):
    """Any mistake that the caller can mend. Its message is one line of visible characters, of bounded length."""

    def __init__(self, message: str = "") -> None:
        super().__init__(_cut(visible(_cut(message))))


class BackboneError(FewclipError):
    """A backbone that can't be found, read or used."""


class DataError(FewclipError):
    """Images, folders, labels or class names that can't be used."""


class PromptError(FewclipError):
    """A class name or template that makes no usable prompt."""


class SettingsError(FewclipError):
    """An unknown method, or a setting out of its range."""


class AdapterError(FewclipError):
    """A saved adapter that is damaged or belongs to another backbone."""


class OutputError(FewclipError):
    """A place to write to that can't be used."""


class TrainingError(FewclipError):
    """Training that can't go on, such as a loss that is not finite."""
