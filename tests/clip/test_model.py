"""The towers' savings change nothing: stems, shared prefixes, last layers at the tokens that are read, edits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import BOT, EOT, random_tokens, small_clip
from torch import Tensor

from fewclip.clip.prompts import Prompts
from fewclip.clip.tokens import Insertion, Stem, TextTokens


def plain_text(ids: Tensor, seed: int = 0) -> Tensor:
    """Text features by the whole context of every prompt, one by one."""
    clip, rows = small_clip(seed).double(), []
    for row in ids:
        x = clip.token_embedding(row) + clip.positional_embedding
        for number in range(1, len(clip.transformer) + 1):
            x = clip.transformer.layer(number)(x, causal=True)
        rows.append(clip.ln_final(x[row.argmax()]) @ clip.text_projection)
    return torch.stack(rows)


@settings(max_examples=30, deadline=None)
@given(classes=st.integers(1, 6), shared=st.integers(0, 8), seed=st.integers(0, 99), layer=st.integers(1, 5))
def test_prefix_and_stem_are_exact(classes: int, shared: int, seed: int, layer: int) -> None:
    ids = random_tokens(classes, shared, seed)
    clip = small_clip().double()
    prompts = Prompts.from_tokens(ids)
    assert prompts.prefix >= 1 + shared
    expected = plain_text(ids)
    torch.testing.assert_close(clip.text_features(clip.text_stem(prompts, min(layer, 4))), expected)
    torch.testing.assert_close(clip.encode_text(ids), expected)
    short = Prompts.from_tokens(ids).until(1)
    assert short.prefix == 1
    torch.testing.assert_close(clip.text_features(clip.text_stem(short, layer=2)), expected)


def test_prompts_are_cut_and_split() -> None:
    ids = torch.tensor([[BOT, 7, 8, 3, 5, EOT, 0, 0], [BOT, 7, 8, 4, EOT, 0, 0, 0], [BOT, 7, 8, 3, EOT, 0, 0, 0]])
    prompts = Prompts.from_tokens(ids)
    assert prompts.tokens.shape == (3, 6)
    assert prompts.eot.tolist() == [5, 4, 4]
    assert prompts.prefix == 3
    assert len(prompts) == 3
    assert len(prompts[1:]) == 2
    alone = Prompts.from_tokens(ids[:1])
    assert alone.prefix == 5, "EOT itself is never shared"
    assert Prompts.from_tokens(ids[[0, 0]]).prefix == 5


@pytest.mark.parametrize("layer", [1, 2, 3, 4])
def test_image_stem_is_exact(layer: int) -> None:
    clip = small_clip().double()
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    stem = clip.visual.stem(images, layer)
    torch.testing.assert_close(clip.visual.features(stem), clip.encode_image(images))
    torch.testing.assert_close(clip.visual.features(stem[1:2]), clip.encode_image(images[1:2]))
    whole = clip.visual.finish(stem, read=5)
    torch.testing.assert_close(clip.visual.finish(stem, read=2), whole[:, :2])


def test_copies_of_prompts() -> None:
    """Leading dimensions hold independent copies: one text tower for several contexts or images at once."""
    clip = small_clip().double()
    stem = clip.text_stem(Prompts.from_tokens(random_tokens(4, 3, 0)))
    prefix, suffix, eot = stem.tokens
    noise = 0.1 * torch.randn(2, *prefix.shape, dtype=torch.float64)
    both = clip.text_features(Stem(1, TextTokens(prefix + noise, suffix.expand(2, -1, -1, -1), eot)))
    for copy in range(2):
        one = clip.text_features(Stem(1, TextTokens(prefix + noise[copy], suffix, eot)))
        torch.testing.assert_close(both[copy], one)


def test_insertion() -> None:
    tokens = torch.arange(12.0).view(3, 2, 2)
    x = torch.full((2, 4, 2), -1.0)
    edit = Insertion(2, tokens, 0.75)
    assert edit.image(1, x) is x
    entered = edit.image(2, x)
    assert entered.shape == (2, 6, 2)
    assert torch.equal(entered[1, 1:3], tokens[0])
    renewed = edit.image(3, entered)
    torch.testing.assert_close(renewed[0, 1:3], 0.75 * tokens[1] + 0.25 * tokens[0])
    assert torch.equal(Insertion(2, tokens).image(3, entered)[0, 1:3], tokens[1])
    assert edit.image(5, renewed) is renewed, "behind its last layer an insertion leaves the tokens alone"
    assert torch.equal(entered[:, 3:], x[:, 1:])


def test_trainable_from_nothing() -> None:
    """A bare CLIP trains: every parameter but the logit scale gets a gradient from its features."""
    from small import small_config

    from fewclip.clip.model import CLIP

    clip = CLIP(small_config())
    (clip.encode_image(torch.randn(2, 3, 16, 16)).sum() + clip.encode_text(random_tokens(3, 1, 0)).sum()).backward()
    assert [name for name, p in clip.named_parameters() if p.grad is None] == ["logit_scale"]
