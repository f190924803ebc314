"""Settings that make each method small, and the methods that take training steps."""

from __future__ import annotations

from typing import Any

from fewclip.methods import METHODS

SMALL: dict[str, dict[str, Any]] = {
    "mmrl": {"rep_dim": 8},
    "mmrlpp": {"rep_dim": 8, "residual_rank": 2, "proj_rank": 2},
    "proda": {"pool": 8, "context_tokens": 4},
    "rpo": {"prompts": 3},
    "clip-lora": {"dropout": 0.0},
}
STEPS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in METHODS if name not in ("zero-shot", "linear-probe", "tip-adapter", "tip-adapter-f"))
]
STEPS += [("coop", {"class_specific": True}), ("coop", {"position": "middle"})]
