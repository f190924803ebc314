"""Groups of classes and parts of batches: the same numbers in other pieces, and bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from every_method import SMALL, STEPS
from hypothesis import given
from hypothesis import strategies as st
from small import random_tokens, small_clip
from texts import TokenTexts
from torch import Tensor

from fewclip.clip import groups, image_tower, kernels
from fewclip.clip.prompts import Prompts
from fewclip.clip.tokenizer import Tokenizer
from fewclip.methods import METHODS, make_settings
from fewclip.methods.classes import ClassTexts
from fewclip.methods.mmrl import MMRL


def step(method: MMRL, classes: int, batch: int = 3) -> list[Tensor]:
    """The loss and its gradients for random prompts and images."""
    method.prepare(TokenTexts(random_tokens(classes, 2, 0)))
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
        monkeypatch.setattr(image_tower, "PART_BYTES", 1)
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


@pytest.mark.parametrize(("name", "settings"), STEPS, ids=str)
def test_every_method_trains_in_groups(name: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole, in groups, and in groups that are all computed again: one loss, one gradient."""
    clip = small_clip(vocab_size=49408, context_length=77)
    clip.tokenizer = Tokenizer.clip()
    names = ["cat", "a small brown dog", "tree", "old steam engine", "fish", "bird", "red car", "the blue house door"]
    images, labels = torch.randn(3, 3, 16, 16), torch.tensor([1, 7, 4])
    again: list[Any] = []
    checkpoint = torch.utils.checkpoint.checkpoint

    def counted(*part: Any, **options: Any) -> Any:
        again.append(part)
        return checkpoint(*part, **options)

    def found() -> list[Tensor | None]:
        torch.manual_seed(0)
        method = METHODS[name](clip, make_settings(name, SMALL.get(name, {}) | settings), len(names)).train()
        method.prepare(ClassTexts(names, "a photo of a {}.", clip.tokenizer))
        loss = method.loss(images, labels)["loss"]
        return [loss, *torch.autograd.grad(loss, list(method.parameters()), allow_unused=True)]

    monkeypatch.setattr(groups, "checkpoint", counted)
    whole = found()
    assert not again
    monkeypatch.setattr(groups, "GROUP_COST", {"cpu": 0})
    for memory in (1 << 40, 0):
        monkeypatch.setattr(groups, "_memory", lambda device, memory=memory: memory)
        for one, other in zip(whole, found(), strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5 * float(one.detach().abs().max()))
        trains_text = name not in ("clip-adapter", "provp")
        assert bool(again) == (memory == 0 and trains_text)
    if trains_text:
        assert len(again) >= 4, "names of four lengths went through the tower together"


def kept(work: Callable[[], list[Tensor]]) -> int:
    """Bytes that autograd keeps while `work` computes gradients, which must be finite."""
    blocks: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        blocks[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        gradients = work()
    assert all(g.isfinite().all() for g in gradients)
    return sum(blocks.values())


def test_ten_thousand_classes_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What autograd keeps stays near the budget of 8 MiB, where everything would take many times that."""
    method = MMRL(small_clip(), make_settings("mmrl", {"rep_dim": 8}))
    monkeypatch.setattr(groups, "_memory", lambda device: 64 << 20)
    assert kept(lambda: step(method, 10_000)) < 24 << 20
    monkeypatch.setattr(groups, "_memory", lambda device: 64 << 30)
    assert kept(lambda: step(method, 10_000)) > 60 << 20


@pytest.mark.parametrize("name", ["coop", "plot", "tcp", "rpo", "clip-lora", "maple"])
def test_a_thousand_classes_in_bounded_memory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = small_clip(vocab_size=49408, context_length=77)
    clip.tokenizer = Tokenizer.clip()
    texts = ClassTexts([f"dog {i}" if i % 3 else f"a cat of kind {i}" for i in range(1000)], "a {}.", clip.tokenizer)
    method = METHODS[name](clip, make_settings(name, SMALL.get(name, {}))).train()
    method.prepare(texts)
    images, labels = torch.randn(2, 3, 16, 16), torch.tensor([3, 900])

    def work() -> list[Tensor]:
        return list(torch.autograd.grad(method.loss(images, labels)["loss"], list(method.parameters())))

    monkeypatch.setattr(groups, "_memory", lambda device: 1 << 40)
    whole = kept(work)
    monkeypatch.setattr(groups, "_memory", lambda device: whole)
    monkeypatch.setattr(groups, "GROUP_TOKENS", {"cpu": 256})
    method.prepare(texts)
    assert kept(work) < whole / 2


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
