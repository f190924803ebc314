"""MMRL and MMRL++ against examples/mmrl_plain.py, their parameter counts, and what their settings refuse."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch
from ablated_mmrl import AblatedMMRL
from hypothesis import given, settings
from hypothesis import strategies as st
from small import VIT_B16, random_tokens, small_clip
from texts import TokenTexts

from fewclip.clip.model import CLIP
from fewclip.errors import SettingsError
from fewclip.methods import METHODS, make_settings
from fewclip.methods.mmrl import MMRL, Aligner, MMRLSettings
from fewclip.methods.mmrlpp import MMRLpp, MMRLppSettings, SharedResidualAligner


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    """A method, its settings, and sizes of the batch."""
    depth = draw(st.integers(1, 4))
    image, text = draw(st.sampled_from([(True, True), (True, False), (False, True)]))
    space = draw(st.sampled_from(["shared", "independent"] + (["text-to-image"] if image and text else [])))
    method = draw(st.sampled_from(["mmrl", "mmrlpp"]))
    values: dict[str, Any] = {
        "rep_tokens": draw(st.integers(1, 4)),
        "rep_dim": draw(st.integers(2, 12)),
        "first_layer": draw(st.one_of(st.none(), st.integers(1, depth))),
        "alpha": draw(st.floats(0, 1)),
        "reg_weight": draw(st.floats(0, 8)),
        "regulariser": draw(st.sampled_from(["cosine", "l1", "mse"])),
        "fusion": draw(st.sampled_from(["logits", "probabilities"])),
        "image_tokens": image,
        "text_tokens": text,
        "space": space,
        "seen_scores": draw(st.sampled_from(["both", "class"])),
        "new_scores": draw(st.sampled_from(["both", "class"])),
    }
    if method == "mmrlpp":
        values |= {"beta": draw(st.floats(0, 1)), "residual_rank": draw(st.integers(1, 3)), "proj_rank": 3}
    return {
        "method": method,
        "values": values,
        "depth": depth,
        "classes": draw(st.integers(1, 6)),
        "shared": draw(st.integers(0, 5)),
        "batch": draw(st.integers(1, 3)),
        "seed": draw(st.integers(0, 999)),
    }


@settings(max_examples=60, deadline=None)
@given(case=cases())
def test_agrees_with_the_equations(case: dict[str, Any]) -> None:
    """Losses, gradients and probabilities in float64 to 1e-5 relative, over random shapes and settings."""
    seed = case["seed"]
    clip = small_clip(seed, vision_layers=case["depth"], text_layers=case["depth"]).double()
    torch.manual_seed(seed)
    method = METHODS[case["method"]](clip, make_settings(case["method"], case["values"])).double()
    assert isinstance(method, MMRL)
    with torch.no_grad():
        for p in method.parameters():  # tensors that start at zero get values
            p.add_(0.1 * torch.randn_like(p))
    ids = random_tokens(case["classes"], case["shared"], seed)
    images = torch.randn(case["batch"], 3, 16, 16, dtype=torch.float64)
    labels = torch.randint(case["classes"], (case["batch"],))

    texts = TokenTexts(ids)
    method.prepare(texts)
    plain = AblatedMMRL(clip, method, ids)
    parameters = list(method.parameters())

    def gradients(loss: torch.Tensor) -> torch.Tensor:
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        return torch.cat(
            [(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, found, strict=True)]
        )

    ours, theirs = method.loss(images, labels)["loss"], plain.loss(images, labels)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)
    g, h = gradients(ours), gradients(theirs)
    assert (g - h).norm() <= 1e-5 * max(1e-3, float(h.norm()))

    with torch.no_grad():
        encoded = method.encode_classes(texts)
        for known in (True, False):
            seen = torch.full((case["classes"],), known)
            ours = method.scores(images, encoded, seen).softmax(-1)
            torch.testing.assert_close(ours, plain.probabilities(images, known), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("fusion", ["logits", "probabilities"])
def test_known_and_new_classes_in_one_distribution(fusion: Literal["logits", "probabilities"]) -> None:
    """Known ones share what the class feature gives them together, in the proportions that both features give."""
    clip = small_clip()
    method = MMRL(clip, MMRLSettings(rep_dim=8, fusion=fusion))
    encoded = method.encode_classes(TokenTexts(random_tokens(4, 2, 0)))
    images = torch.randn(2, 3, 16, 16)
    seen = torch.tensor([True, False, True, False])
    known, new = [0, 2], [1, 3]
    every = torch.ones(4, dtype=torch.bool)
    by_class = method.scores(images, encoded, ~every).softmax(-1)
    alone = method.scores(images, encoded[known], every[:2]).softmax(-1)
    mixed = method.scores(images, encoded, seen).softmax(-1)
    torch.testing.assert_close(mixed[:, new], by_class[:, new])
    torch.testing.assert_close(mixed[:, known], by_class[:, known].sum(-1, keepdim=True) * alone)
    assert not torch.allclose(mixed, by_class, atol=1e-3)


def test_a_shift_of_the_representation_logits_favours_no_kind_of_class() -> None:
    """Training can't tell ℓ_r from ℓ_r + constant, so what is said about new classes must not depend on it either."""
    clip = small_clip()
    method = MMRL(clip, MMRLSettings(rep_dim=8))
    encoded = method.encode_classes(TokenTexts(random_tokens(4, 2, 0)))
    images, seen = torch.randn(2, 3, 16, 16), torch.tensor([True, False, True, False])
    before = method.scores(images, encoded, seen).softmax(-1)
    fuse = method._fuse
    method._fuse = lambda by_class, by_rep: fuse(by_class, by_rep - 7)  # type: ignore[method-assign]
    torch.testing.assert_close(method.scores(images, encoded, seen).softmax(-1), before)


def test_known_and_new_logits_side_by_side() -> None:
    clip = small_clip()
    method = MMRL(clip, MMRLSettings(rep_dim=8, mixed_scores="raw"))
    encoded = method.encode_classes(TokenTexts(random_tokens(4, 2, 0)))
    images = torch.randn(2, 3, 16, 16)
    every = torch.ones(4, dtype=torch.bool)
    fused, by_class = method.scores(images, encoded, every), method.scores(images, encoded, ~every)
    seen = torch.tensor([True, False, True, False])
    torch.testing.assert_close(method.scores(images, encoded, seen), torch.where(seen, fused, by_class))
    assert not torch.allclose(fused, by_class)


@pytest.mark.parametrize(
    ("kind", "values", "count"),
    [("mmrl", {}, 4_992_256), ("mmrl", {"rep_dim": 32}, 689_056), ("mmrlpp", {}, 813_312)],
)
def test_parameter_counts_on_vit_b16(kind: str, values: dict[str, Any], count: int) -> None:
    with torch.device("meta"):
        clip = CLIP(VIT_B16)
        method = METHODS[kind](clip, make_settings(kind, values))
    assert method.parameter_count() == count


def test_starts_as_published() -> None:
    """All layers of an aligner start alike; MMRL++'s low-rank parts start at zero effect; P_r of MMRL is not CLIP's."""
    torch.manual_seed(0)
    clip = small_clip(vision_width=256, vision_heads=4)
    method = MMRL(clip, MMRLSettings(rep_dim=64))
    aligner = method.tokens.to_image
    assert isinstance(aligner, Aligner)
    assert (aligner.weight == aligner.weight[0]).all()
    assert (aligner.bias == aligner.bias[0]).all()
    assert method.tokens.space.std().item() == pytest.approx(0.02, rel=0.15)
    assert method.rep_proj.std().item() == pytest.approx(1 / math.sqrt(256), rel=0.05)
    plus = MMRLpp(clip, MMRLppSettings(rep_dim=64))
    assert isinstance(plus.tokens.to_image, SharedResidualAligner)
    assert not plus.tokens.to_image.down.any()
    assert plus.tokens.to_image.up.any()
    rep = torch.randn(2, 256)
    torch.testing.assert_close(plus._project(rep), rep @ clip.visual.proj)


def test_only_the_method_trains() -> None:
    clip = small_clip()
    method = MMRL(clip, MMRLSettings(rep_dim=8))
    method.prepare(TokenTexts(random_tokens(3, 2, 0)))
    method.loss(torch.randn(2, 3, 16, 16), torch.tensor([0, 2]))["loss"].backward()
    assert all(p.grad is None for p in clip.parameters())
    assert all(p.grad is not None for p in method.parameters())
    assert not any("visual" in name for name in method.state_dict())


@pytest.mark.parametrize(
    ("method", "values", "says"),
    [
        ("mmrl", {"first_layer": 9}, "layers are 1 to 4"),
        ("mmrl", {"alpha": 1.5}, "between 0 and 1"),
        ("mmrl", {"rep_tokens": 0}, "at least 1"),
        ("mmrl", {"reg_weight": -1.0}, "0 or more"),
        ("mmrl", {"image_tokens": False, "text_tokens": False}, "nothing to train"),
        ("mmrl", {"space": "text-to-image", "text_tokens": False}, "needs both"),
        ("mmrl", {"lamda": 1.0}, "has no setting 'lamda'"),
        ("mmrlpp", {"beta": -0.1}, "between 0 and 1"),
        ("mmrlpp", {"proj_rank": 0}, "at least 1"),
        ("mmmrl", {}, "choose one of"),
    ],
)
def test_refuses_settings(method: str, values: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        METHODS.get(method, MMRL)(small_clip(), make_settings(method, values))


def test_text_to_image_needs_equally_many_layers() -> None:
    with pytest.raises(SettingsError, match="2 image layers and 3 text layers"):
        MMRL(small_clip(vision_layers=2, text_layers=4), MMRLSettings(space="text-to-image"))
