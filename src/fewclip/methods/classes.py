"""The classes as a method sees them: names, and the prompts made of any sentence about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from fewclip.clip.prompts import Prompts
from fewclip.clip.tokenizer import Tokenizer
from fewclip.data.names import check_names, key, match
from fewclip.errors import DataError, PromptError

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor


class ClassTexts:
    """The classes of a training run or of a prediction. A method asks for the sentences that it needs.

    Attributes:
        names: the class names as the user wrote them.
        template: the user's sentence, with `{}` for the class name.
        labels: each class's label in training (C,), -1 for one that was not trained on.
        name_lengths: how many tokens each class name has (C,).
    """

    names: Sequence[str]
    template: str
    labels: Int[Tensor, " classes"]
    name_lengths: Int[Tensor, " classes"]

    def __init__(
        self,
        names: Sequence[str],
        template: str,
        tokenizer: Tokenizer | None,
        context_length: int = 77,
        *,
        trained: Sequence[str] | None = None,
    ) -> None:
        """`trained`: names of the training classes in the order of their labels; None if `names` are these classes.

        Raises:
            PromptError: there is no name, or one that can't be tokenised.
            DataError: the backbone came without a tokenizer.
        """
        if tokenizer is None:
            raise DataError(
                "This backbone has no tokenizer, so class names can't be read: load it with CLIP.from_pretrained."
            )
        if not names:
            raise PromptError("No class names were given: give at least one.")
        check_names(names, where="the classes", repeats=True)
        self.names, self.template, self.tokenizer, self.context_length = names, template, tokenizer, context_length
        places = match([key(name) for name in names], [key(name) for name in (names if trained is None else trained)])
        self.labels = torch.tensor([-1 if place is None else place for place in places])
        self._words = [name.replace("_", " ") for name in names]
        self.name_lengths = torch.tensor([len(tokenizer.encode(word)) for word in self._words])
        if not self.name_lengths.all():
            empty = names[int(self.name_lengths.argmin())]
            raise PromptError(
                f"The class name {empty!r} makes no tokens with this backbone's tokenizer: rename the class."
            )
        self._prompts: dict[str, Prompts] = {}

    def __len__(self) -> int:
        return len(self.names)

    def prompts(self, sentence: str) -> Prompts:
        """One prompt per class: the sentence with the class name in place of `{}`. Each sentence is tokenised once.

        Raises:
            PromptError: a prompt is longer than the context.
        """
        if sentence not in self._prompts:
            texts = [sentence.replace("{}", name) for name in self._words]
            self._prompts[sentence] = Prompts.from_tokens(self.tokenizer(texts, self.context_length))
        return self._prompts[sentence]

    @property
    def sentences(self) -> list[str]:
        """The sentences that were asked for so far."""
        return list(self._prompts)
