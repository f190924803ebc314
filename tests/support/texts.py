"""Token ids in place of class names."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fewclip.clip.prompts import Prompts
from fewclip.methods.classes import ClassTexts


class TokenTexts(ClassTexts):
    """One set of tokens (classes, context) for whatever sentence is asked for, but for those of `sentences`."""

    def __init__(
        self,
        tokens: Tensor,
        sentences: Mapping[str, Tensor] | None = None,
        name_lengths: Tensor | None = None,
        template: str = "template {}",
    ) -> None:
        self.names, self.template, self.labels = (
            [f"class {i}" for i in range(len(tokens))],
            template,
            torch.arange(len(tokens)),
        )
        self.tokens, self.given = tokens, dict(sentences or {})
        if name_lengths is not None:
            self.name_lengths = name_lengths

    def prompts(self, sentence: str) -> Prompts:
        return Prompts.from_tokens(self.given.get(sentence, self.tokens))
