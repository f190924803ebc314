"""How many parameters each method trains on ViT-B/16 with default settings, as the table of methods states."""

from __future__ import annotations

import pytest
import torch
from small import VIT_B16

from fewclip.clip.model import CLIP
from fewclip.methods import METHODS, make_settings

PUBLISHED = {"promptsrc": 0.046, "provp": 0.147, "metaprompt": 0.031, "tcp": 0.332, "mma": 0.675, "maple": 3.555}
"""In millions, as the MMRL paper lists them."""
COUNTS = {
    "zero-shot": 0,
    "clip-adapter": 131_072,
    "tip-adapter": 0,
    "coop": 2_048,
    "cocoop": 35_360,
    "kgcoop": 2_048,
    "prograd": 8_192,
    "proda": 262_144,
    "plot": 14_336,
    "tcp": 331_904,
    "provp": 147_456,
    "rpo": 30_720,
    "maple": 3_555_072,
    "promptsrc": 46_080,
    "metaprompt": 30_720,
    "mma": 674_560,
    "clip-lora": 184_320,
    "mmrl": 4_992_256,
    "mmrlpp": 813_312,
}


@pytest.fixture(scope="module")
def vit_b16() -> CLIP:
    with torch.device("meta"):
        return CLIP(VIT_B16)


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_on_vit_b16(vit_b16: CLIP, name: str) -> None:
    with torch.device("meta"):
        count = METHODS[name](vit_b16).parameter_count()
    assert count == COUNTS[name]
    assert METHODS[name].parameters_b16 == f"{count:,}"
    if name in PUBLISHED:
        assert round(count / 1e6, 3) == PUBLISHED[name]


def test_the_others_depend_on_the_data() -> None:
    assert set(METHODS) - set(COUNTS) == {"linear-probe", "tip-adapter-f"}
    assert METHODS["linear-probe"].parameters_b16 == f"{512 + 1} per class"
    assert METHODS["tip-adapter-f"].parameters_b16 == f"{16 * 512:,} per class (16 shots)"


def test_of_other_published_settings(vit_b16: CLIP) -> None:
    for name, settings, count in (
        ("coop", {"context_tokens": 16}, 8_192),
        ("maple", {"depth": 3}, 1_185_024),
        ("promptsrc", {"text_depth": 3, "image_depth": 3}, 15_360),
        ("provp", {"prompts": 50}, 460_800),
        ("metaprompt", {"text_prompts": 4, "image_prompts": 4}, 61_440),
        ("mma", {"first_layer": 9}, 337_280),
        ("mma", {"first_layer": -4}, 337_280),
        ("mma", {"first_layer": -40}, 12 * 84_320),
        ("rpo", {"prompts": 4}, 5_120),
        ("clip-lora", {"towers": "text"}, 73_728),
        ("clip-lora", {"towers": "image"}, 110_592),
    ):
        with torch.device("meta"):
            assert METHODS[name](vit_b16, make_settings(name, settings)).parameter_count() == count, (name, settings)


def test_every_method_says_what_it_is() -> None:
    for method in METHODS.values():
        assert method.paper[-4:].isdigit(), method.name
        assert method.trained
        assert method.parameters_b16
