"""Class names on their way to a method."""

from __future__ import annotations

import pytest

from fewclip.clip.tokenizer import Tokenizer
from fewclip.errors import PromptError
from fewclip.methods.classes import ClassTexts


class Deaf(Tokenizer):
    """Has no token for a triangle."""

    def encode(self, text: str) -> list[int]:
        return [] if text == "△" else super().encode(text)


def test_name_lengths_count_tokens() -> None:
    texts = ClassTexts(["cat", "polar_bear", "cat"], "a photo of a {}.", Tokenizer.clip())
    assert texts.name_lengths.tolist() == [1, 2, 1]
    assert texts.labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["", "___", "\u200b", "a\x07b", "x" * 301])
def test_what_is_not_a_class_name(name: str) -> None:
    with pytest.raises(PromptError, match="of the classes"):
        ClassTexts(["cat", name, "dog"], "a photo of a {}.", Tokenizer.clip())


def test_a_name_without_tokens() -> None:
    texts = ["cat", "△", "dog"]
    with pytest.raises(PromptError, match="'△' makes no tokens with this backbone's tokenizer: rename the class"):
        ClassTexts(texts, "a photo of a {}.", Deaf(Tokenizer.clip()._encoder))
