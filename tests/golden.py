"""Golden runs: how each method's published names map to ours. A new method adds one `Case` to `CASES`.

Format: shared/golden/README.md.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from fewclip.clip.model import CLIP, Config
from fewclip.clip.prompts import Prompts
from fewclip.methods.base import Method, unit
from fewclip.methods.mmrl import MMRL, MMRLSettings
from fewclip.methods.mmrlpp import MMRLpp, MMRLppSettings

Place = tuple[str, int | None]
"""One of our parameters, and the row of it where ours stacks what the reference keeps apart."""


@dataclass
class Golden:
    """One file: its tensors (floats as float32) and its metadata."""

    path: Path
    meta: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def read(self) -> Golden:
        with safe_open(self.path, framework="pt") as file:
            self.meta = {k: json.loads(v) for k, v in (file.metadata() or {}).items()}
            for name in file.keys():  # noqa: SIM118 - safe_open is no dict
                tensor = file.get_tensor(name)
                self.tensors[name] = tensor.float() if tensor.is_floating_point() else tensor
        return self

    def group(self, prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}

    def clip(self) -> CLIP:
        sizes = self.meta["clip"]
        clip = CLIP(
            Config(
                embed_dim=sizes["embed_dim"],
                image_size=sizes["image_resolution"],
                patch_size=sizes["vision_patch_size"],
                vision_width=sizes["vision_width"],
                vision_layers=sizes["vision_layers"],
                vision_heads=sizes["vision_width"] // 64,
                context_length=sizes["context_length"],
                vocab_size=sizes["vocab_size"],
                text_width=sizes["transformer_width"],
                text_layers=sizes["transformer_layers"],
                text_heads=sizes["transformer_heads"],
                quick_gelu=True,
            )
        )
        weights = self.group("clip.")
        weights.setdefault("logit_scale", clip.logit_scale.detach())
        clip.load_state_dict(weights)
        return clip.requires_grad_(False).eval()


class Case(ABC):
    """What the golden test asks of a method: build it, map the reference's names, evaluate."""

    def __init__(self, golden: Golden) -> None:
        self.golden = golden
        self.clip = golden.clip()
        self.images, self.labels = golden.tensors["images"], golden.tensors["labels"]
        self.prompts = Prompts.from_tokens(golden.tensors["tokens"])
        self.method = self.build()
        self.method.prepare(self.prompts)
        self.load(golden.group("init."))

    @abstractmethod
    def build(self) -> Method: ...

    @abstractmethod
    def place(self, reference: str) -> Place:
        """Where a reference's learnable tensor lives in ours."""

    @abstractmethod
    def evaluate(self) -> dict[str, Tensor]:
        """All `eval.*`, without that prefix."""

    def outputs(self, out: dict[str, Tensor]) -> dict[str, Tensor]:
        """All `out.*`, without that prefix, from what `loss` returned."""
        return out

    def zero_shot(self) -> dict[str, Tensor]:
        with torch.no_grad():
            return {
                "image_features": unit(self.clip.encode_image(self.images)),
                "text_features": unit(self.clip.encode_text(self.prompts)),
            }

    def load(self, init: dict[str, Tensor]) -> None:
        parameters = dict(self.method.named_parameters())
        filled = dict.fromkeys(parameters, 0)
        with torch.no_grad():
            for reference, value in init.items():
                name, row = self.place(reference)
                target = parameters[name] if row is None else parameters[name][row]
                target.copy_(value)
                filled[name] += value.numel()
        assert filled == {name: p.numel() for name, p in parameters.items()}, "init does not fill every parameter"

    def named(self, references: list[str], gradients: bool) -> dict[str, Tensor]:
        """Our parameters or their gradients under the reference's names."""
        parameters = dict(self.method.named_parameters())
        found = {}
        for reference in references:
            name, row = self.place(reference)
            tensor = parameters[name].grad if gradients else parameters[name].detach()
            assert tensor is not None, f"{name} has no gradient"
            found[reference] = tensor if row is None else tensor[row]
        return found

    def optimizer(self) -> torch.optim.Optimizer:
        meta, parameters = self.golden.meta, self.method.parameters()
        lr, decay = meta["lr"], meta["weight_decay"]
        if meta["optimizer"].lower() == "sgd":
            return torch.optim.SGD(parameters, lr=lr, weight_decay=decay, momentum=meta["momentum"])
        kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[meta["optimizer"].lower()]
        betas = tuple(meta.get("betas", (0.9, 0.999)))
        return kind(parameters, lr=lr, weight_decay=decay, betas=betas, eps=meta.get("eps", 1e-8))


class MMRLCase(Case):
    def build(self) -> Method:
        return MMRL(self.clip, MMRLSettings(**self.common()))

    def common(self) -> dict[str, Any]:
        meta = self.golden.meta
        assert meta["layers"] == list(range(meta["layers"][0], self.clip.config.vision_layers + 1))
        return {
            "rep_tokens": meta["K"],
            "rep_dim": meta["rep_dim"],
            "first_layer": meta["layers"][0],
            "alpha": meta["alpha"],
            "reg_weight": meta["reg_weight"],
        }

    def place(self, reference: str) -> Place:
        owner, _, rest = reference.partition(".")
        if owner == "image_encoder":
            return "rep_proj", None
        if rest == "compound_rep_tokens":
            return "tokens.space", None
        aligner, row, kind = rest.split(".")
        return f"tokens.{ALIGNERS[aligner.rsplit('_', 1)[1]]}.{kind}", int(row)

    def outputs(self, out: dict[str, Tensor]) -> dict[str, Tensor]:
        alpha = self.golden.meta["alpha"]
        return out | {"logits_fusion": alpha * out["logits"] + (1 - alpha) * out["logits_rep"]}

    @torch.no_grad()
    def evaluate(self) -> dict[str, Tensor]:
        classes = self.method.encode_classes(self.prompts)
        none = torch.zeros(len(self.prompts), dtype=torch.bool)
        return {
            "logits_class": self.method.scores(self.images, classes, none),
            "logits_fused": self.method.scores(self.images, classes, ~none),
        }


ALIGNERS = {"r2vproj": "to_image", "r2tproj": "to_text"}


class MMRLppCase(MMRLCase):
    def build(self) -> Method:
        meta = self.golden.meta
        own = {"beta": meta["beta"], "residual_rank": meta["residual_rank"], "proj_rank": meta["proj_rank"]}
        return MMRLpp(self.clip, MMRLppSettings(**self.common(), **own))

    def place(self, reference: str) -> Place:
        owner, _, rest = reference.partition(".")
        if owner == "image_encoder":
            return {"A": "proj_down", "B": "proj_up"}[rest], None
        if rest == "compound_rep_tokens":
            return "tokens.space", None
        parts = rest.split(".")
        aligner = f"tokens.{ALIGNERS[parts[0].rsplit('_', 1)[1]]}"
        if parts[1] == "weight":
            return f"{aligner}.weight", None
        return f"{aligner}.{ {'A': 'up', 'B': 'down', 'bias': 'bias'}[parts[3]] }", int(parts[2])


CASES: dict[str, type[Case]] = {"mmrl": MMRLCase, "mmrlpp": MMRLppCase}
