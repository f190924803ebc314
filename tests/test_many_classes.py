"""Groups of classes and parts of batches: the same numbers in other pieces, and bounded memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import random_tokens, small_clip
from torch import Tensor

from fewclip.clip import groups, kernels, model
from fewclip.clip.prompts import Prompts
from fewclip.methods import METHODS, make_settings
from fewclip.methods.mmrl import MMRL


def step(method: MMRL, classes: int, batch: int = 3) -> list[Tensor]:
    """The loss and its gradients for random prompts and images."""
    method.prepare(Prompts.from_tokens(random_tokens(classes, 2, 0)))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, 16, 16, generator=generator)
    labels = torch.randint(classes, (batch,), generator=generator)
    loss = method.loss(images, labels)["loss"]
    return [loss.detach(), *torch.autograd.grad(loss, list(method.parameters()))]


@pytest.mark.parametrize("name", ["mmrl", "mmrlpp"])
@pytest.mark.parametrize("quick_gelu", [True, False])
@pytest.mark.parametrize("change", ["groups", "recomputed", "parts", "plain torch"])
def test_pieces_change_nothing(name: str, quick_gelu: bool, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = small_clip(quick_gelu=quick_gelu)
    torch.manual_seed(0)
    method = METHODS[name](clip, make_settings(name, {"rep_dim": 8}))
    assert isinstance(method, MMRL)
    with torch.no_grad():
        for p in method.parameters():
            p.add_(0.1 * torch.randn_like(p))
    monkeypatch.setattr(groups, "GROUP_COST", {"cpu": 10_000})
    whole = step(method, 20)
    assert len(method._text_stem.stems) == 1
    if change == "parts":
        monkeypatch.setattr(model, "PART_BYTES", 1)
    elif change == "plain torch":
        monkeypatch.setattr(kernels, "_onednn", None)
    else:
        monkeypatch.setattr(groups, "GROUP_COST", {"cpu": 0})
        monkeypatch.setattr(groups, "GROUP_TOKENS", {"cpu": 12})
        if change == "recomputed":
            monkeypatch.setattr(groups, "_memory", lambda device: 0)
    pieces = step(method, 20)
    if change in ("groups", "recomputed"):
        assert len(method._text_stem.stems) > 4
    for one, other in zip(whole, pieces, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(one.abs().max()))


def test_ten_thousand_classes_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What autograd keeps stays near the budget of 8 MiB, where everything would take many times that."""
    method = MMRL(small_clip(), make_settings("mmrl", {"rep_dim": 8}))

    def kept(memory: int) -> int:
        blocks: dict[int, int] = {}

        def pack(x: Tensor) -> Tensor:
            blocks[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        monkeypatch.setattr(groups, "_memory", lambda device: memory)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            gradients = step(method, 10_000)
        assert all(g.isfinite().all() for g in gradients)
        return sum(blocks.values())

    assert kept(64 << 20) < 24 << 20
    assert kept(64 << 30) > 60 << 20


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=8), cost=st.integers(0, 20))
def test_split_computes_least(lengths: list[int], cost: int) -> None:
    lengths = sorted(lengths)

    def total(runs: Any) -> int:
        return sum((end - start) * lengths[end - 1] + cost for start, end in runs)

    def every(start: int) -> list[list[tuple[int, int]]]:
        if start == len(lengths):
            return [[]]
        return [[(start, end), *rest] for end in range(start + 1, len(lengths) + 1) for rest in every(end)]

    found = groups.split(lengths, cost)
    assert [row for start, end in found for row in range(start, end)] == list(range(len(lengths)))
    assert total(found) == min(map(total, every(0)))


def test_every_class_is_in_one_group() -> None:
    prompts = Prompts.from_tokens(random_tokens(50, 2, 0))
    rows = groups.group(prompts, torch.device("cpu"), cost=0, most=20)
    assert sorted(row for some in rows for row in some) == list(range(50))
    for some in rows:
        lengths = prompts.eot[some] - prompts.prefix + 1
        assert len(some) * int(lengths.max()) <= 20
        assert prompts.only(some).tokens.shape[1] == prompts.prefix + int(lengths.max())
