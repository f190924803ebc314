"""Class names and the prompts made of them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from fewclip.clip.prompts import Prompts
from fewclip.clip.tokenizer import Tokenizer
from fewclip.data.matching import match
from fewclip.errors import DataError, PromptError

if TYPE_CHECKING:
    from fewclip.methods.base import Method

LONGEST = 300
"""Characters of a class name; far more than any context holds."""


UNREADABLE = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories that no name holds: controls and escapes, halves of characters, ends of lines and paragraphs."""
TURNS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that turn the direction of what follows, so that a name is shown as another."""


def key(name: str) -> str:
    """What makes two names the same prompt: case, blanks, underscores and how accents are composed don't count."""
    return " ".join(unicodedata.normalize("NFC", name.replace("_", " ")).lower().split())


def check_names(names: Sequence[str], *, where: str, known: Sequence[str] = (), repeats: bool = False) -> None:
    """Refuse names that are empty, hold control characters or turn the direction of text, are too long, or the same prompt
    as another or one of `known`.

    With `repeats` names may be equal, as two pairs of ImageNet's are.

    Raises:
        PromptError
    """
    seen = {key(name): name for name in known}
    for name in names:
        if not isinstance(name, str):
            raise PromptError(f"A class name of {where} is {name!r}: expected text.")
        if len(name) > LONGEST:
            raise PromptError(
                f"A class name of {where} has {len(name)} characters ({name[:40]!r}…): {LONGEST} is the most."
            )
        if not key(name) or any(unicodedata.category(c) in UNREADABLE or c in TURNS for c in name):
            raise PromptError(
                f"The class name {name!r} of {where} is empty or holds control characters: give it a name that can be read."
            )
        if key(name) in seen and not repeats:
            raise PromptError(
                f"The class names {seen[key(name)]!r} and {name!r} of {where} make the same prompt, so no image could "
                "tell them apart: merge the two classes or rename one."
            )
        seen[key(name)] = name


def make_prompts(
    names: Sequence[str],
    template: str,
    tokenizer: Tokenizer | None,
    context_length: int,
    *,
    templates: Sequence[str] = (),
    labels: Sequence[int] | None = None,
) -> Prompts:
    """The tokenised prompts of class names; `templates` and `labels` as `Prompts` has them.

    Raises:
        PromptError: a name or its prompt doesn't tokenise, or the prompt is longer than the context.
        DataError: the backbone came without a tokenizer.
    """
    if tokenizer is None:
        raise DataError(
            "This backbone has no tokenizer, so class names can't be read: load it with CLIP.from_pretrained."
        )
    if not names:
        raise PromptError("There is no class name: give at least one.")
    tokenizer.check_names(names)
    words = [name.replace("_", " ") for name in names]

    def one(sentence: str) -> Prompts:
        tokens = tokenizer([sentence.replace("{}", name) for name in words], context_length)
        return replace(Prompts.from_tokens(tokens), sentence=sentence)

    return replace(
        one(template),
        names=torch.tensor([len(tokenizer.encode(name)) for name in words]),
        templates=tuple(one(sentence) for sentence in templates),
        labels=None if labels is None else torch.tensor(list(labels)),
    )


def prompts_for(method: Method, names: Sequence[str], template: str, trained: Sequence[str] = ()) -> Prompts:
    """The sentences that a method asks for, and which of the names are among those that it was `trained` on.

    Raises:
        PromptError, DataError: as `make_prompts`.
    """
    sentence, templates = method.sentences(template)
    labels = match([key(name) for name in names], [key(name) for name in trained])
    return make_prompts(
        names,
        sentence,
        method.clip.tokenizer,
        method.clip.config.context_length,
        templates=templates,
        labels=[-1 if label is None else label for label in labels],
    )
