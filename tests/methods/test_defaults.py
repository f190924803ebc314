"""The numbers that each method has where nothing is set: those of its paper or published code."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
import torch
from small import small_clip

from fewclip.methods import METHODS
from fewclip.methods.rpo import RPO
from fewclip.training.settings import TrainSettings, published_training

COOP = {"optimizer": "sgd", "momentum": 0.9, "lr": 2e-3, "weight_decay": 5e-4, "crop_min": 0.08, "schedule": "epoch"}
COOP |= {"warmup_epochs": 1, "warmup_lr": 1e-5, "min_lr": 0.0}
ADAMW = {"optimizer": "adamw", "weight_decay": 0.01, "schedule": "step", "warmup_epochs": 0}
MMRL = {"rep_tokens": 5, "rep_dim": 512, "alpha": 0.7, "reg_weight": 1.0}
MMRL_TRAINING = {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 5e-4, "eps": 1e-8, "epochs": 10, "batch_size": 4}
PUBLISHED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "clip-adapter": ({"ratio": 0.2, "reduction": 4}, COOP | {"epochs": 50, "batch_size": 32}),
    "tip-adapter": ({"alpha": 1.17, "beta": 1.0, "passes": 10, "beta_steps": 200, "alpha_steps": 20}, {}),
    "tip-adapter-f": ({"alpha": 1.17, "beta": 1.0}, ADAMW | {"lr": 1e-3, "eps": 1e-4, "batch_size": 256, "epochs": 20}),
    "coop": ({"context_tokens": 4}, COOP | {"epochs": 50, "batch_size": 32}),
    "cocoop": ({"context_tokens": 4, "reduction": 16}, COOP | {"epochs": 10, "batch_size": 1}),
    "kgcoop": ({"kg_weight": 8.0}, COOP | {"epochs": 100, "batch_size": 128}),
    "prograd": ({"context_tokens": 16, "strength": 1.0, "temperature": 1.0}, COOP | {"epochs": 100, "batch_size": 32}),
    "proda": ({"pool": 32, "prompt_batch": 4, "context_tokens": 16, "orthogonal_weight": 0.1}, COOP),
    "plot": ({"views": 4, "image_prompts": 2, "temperature": 0.1, "threshold": 0.01}, COOP | {"epochs": 50}),
    "tcp": ({"context_tokens": 4, "kg_weight": 8.0, "reduction": 4}, {"optimizer": "adam", "eps": 1e-3, "lr": 2e-3}),
    "provp": (
        {"prompts": 16, "keep": 0.01, "ref_weight": 1.0},
        COOP | {"lr": 0.1, "weight_decay": 1e-3, "epochs": 100},
    ),
    "rpo": ({"prompts": 24, "noise": 0.1}, COOP | {"lr": 0.01, "epochs": 15, "batch_size": 4}),
    "maple": ({"prompt_tokens": 2, "depth": 9}, COOP | {"lr": 3.5e-3, "epochs": 5, "batch_size": 4}),
    "promptsrc": (
        {"text_weight": 25.0, "image_weight": 10.0, "logit_weight": 1.0, "average_mean": 15.0, "average_std": 1.0},
        COOP | {"lr": 2.5e-3, "epochs": 20, "batch_size": 4},
    ),
    "metaprompt": ({"depth": 12, "meta_step": 0.2}, COOP | {"lr": 1.5e-3, "epochs": 8, "batch_size": 16}),
    "mma": (
        {"bottleneck": 32, "scale": 0.001},
        COOP | {"lr": 1.5e-3, "epochs": 5, "batch_size": 16, "warmup_epochs": 0},
    ),
    "clip-lora": (
        {"rank": 2, "alpha": 1.0, "dropout": 0.25},
        ADAMW | {"lr": 2e-4, "min_lr": 1e-6, "batch_size": 32, "steps_per_shot": 500, "epochs": 0, "crop_min": 0.08},
    ),
    "mmrl": (MMRL, MMRL_TRAINING),
    "mmrlpp": (MMRL | {"beta": 0.9, "residual_rank": 4, "proj_rank": 64}, MMRL_TRAINING),
}


@pytest.mark.parametrize("name", list(METHODS))
def test_defaults_are_published(name: str) -> None:
    if name in ("zero-shot", "linear-probe"):
        assert not published_training(name)
        return
    settings, training = PUBLISHED[name]
    ours = asdict(METHODS[name].Settings())
    assert {key: ours[key] for key in settings} == settings
    ours = asdict(TrainSettings(**published_training(name)))
    assert {key: ours[key] for key in training} == training


def test_rpo_starts_a_tenth_away_from_what_clip_reads() -> None:
    """Each token at its own random vector of length 0.1 from EOT's embedding or the class token."""
    clip = small_clip()
    torch.manual_seed(0)
    method = RPO(clip)
    for tokens, start in ((method.text, clip.token_embedding.weight[-1]), (method.image, clip.visual.class_embedding)):
        away = tokens.detach() - start
        torch.testing.assert_close(away.norm(dim=1), torch.full((24,), 0.1), rtol=1e-4, atol=0)
        assert torch.linalg.matrix_rank(away) > 10
