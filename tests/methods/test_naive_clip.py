"""Every method on our towers and on towers that compute as published: one loss, one gradient."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from every_method import SMALL, STEPS
from naive_clip import naive_clip
from small import small_clip
from torch import Tensor

from fewclip.clip.model import CLIP
from fewclip.clip.tokenizer import Tokenizer
from fewclip.methods import METHODS, make_settings
from fewclip.methods.classes import ClassTexts


@pytest.mark.parametrize(("name", "settings"), STEPS, ids=str)
def test_published_arithmetic_gives_the_same(name: str, settings: dict[str, Any]) -> None:
    clip = small_clip(vocab_size=49408, context_length=77)
    clip.tokenizer = Tokenizer.clip()
    if name == "clip-lora":
        settings = {"dropout": 1e-9}  # shares no prefix, and drops nothing
    torch.manual_seed(0)
    texts = ClassTexts(["cat", "a small brown dog", "tree", "red car"], "a photo of a {}.", clip.tokenizer)
    method = METHODS[name](clip, make_settings(name, SMALL.get(name, {}) | settings), len(texts)).train()
    images, labels = torch.randn(3, 3, 16, 16), torch.tensor([1, 3, 0])
    if name == "clip-lora":
        for p in method.parameters():
            p.data.normal_(std=0.1)

    def found(clip: CLIP) -> list[Tensor | None]:
        twin = copy.copy(method)
        object.__setattr__(twin, "clip", clip)
        torch.manual_seed(1)
        twin.prepare(texts)
        loss = twin.loss(images, labels)["loss"]
        return [loss, *torch.autograd.grad(loss, list(twin.parameters()), allow_unused=True)]

    for ours, theirs in zip(found(clip), found(naive_clip(clip)), strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(ours.detach().abs().max()))
