"""Class names and the prompts made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from fewclip.clip.prompts import Prompts
from fewclip.clip.tokenizer import Tokenizer
from fewclip.data.names import key, match
from fewclip.errors import DataError, PromptError

if TYPE_CHECKING:
    from fewclip.methods.base import Method


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
