"""Golden runs: one file, and what the test asks of a method. tests/support/golden_cases.py says it for each.

Format: tests/golden/README.md.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from texts import TokenTexts
from torch import Tensor

from fewclip.clip.config import Config
from fewclip.clip.model import CLIP
from fewclip.data.batches import Batch
from fewclip.methods import frozen
from fewclip.methods.base import Gradients, Loss, Method
from fewclip.training.loop import BatchStep, Trainer
from fewclip.training.processes import Processes
from fewclip.training.settings import TrainSettings, learning_rate, make_optimizer

Place = tuple[str, "int | tuple[int, ...] | None"]
"""One of our parameters, and the row of it where ours stacks what the reference keeps apart."""
Check = Callable[[str, Mapping[str, Tensor], Mapping[str, Tensor]], None]
"""Of a kind of results: ours and theirs."""
RESULTS = ("out.", "grad.", "train.", "init.", "final.", "eval.", "zero_shot.")


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
                vision_heads=sizes.get("vision_heads", sizes["vision_width"] // 64),
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

    inputs: tuple[str, ...] = ()
    """Tensors in the groups of results that are none, but given to the run."""

    def __init__(self, golden: Golden) -> None:
        self.golden, self.meta, self.tensors = golden, golden.meta, golden.tensors
        self.clip = golden.clip()
        self.images, self.labels = golden.tensors["images"], golden.tensors["labels"]
        self.texts = self.read_texts()
        self.prompts = self.texts.prompts("")
        self.method = self.build()
        self.method.prepare(self.texts)
        self.load(golden.group("init."))

    @abstractmethod
    def build(self) -> Method: ...

    @abstractmethod
    def place(self, reference: str) -> Place:
        """Where a reference's learnable tensor lives in ours."""

    @classmethod
    def runs(cls, golden: Golden) -> list[Golden]:
        """The file's runs: its main one, and those of the metadata's `variants`, which override parts of it."""
        found = [golden]
        for name, settings in golden.meta.get("variants", {}).items():
            own = golden.group(f"{name}.")
            shared = {k: v for k, v in golden.tensors.items() if not k.startswith(RESULTS)}
            found.append(Golden(golden.path, golden.meta | settings, shared | own))
        return found

    def read_texts(self, prefix: str = "") -> TokenTexts:
        """The file's tokens, whatever sentence the method asks for, but for those of `sentences`."""
        names = self.tensors.get(f"{prefix}name_lens")
        return TokenTexts(self.tensors[f"{prefix}tokens"], self.sentences(prefix), names)

    def sentences(self, prefix: str) -> dict[str, Tensor]:
        """Tokens (C, context) of further sentences."""
        return {}

    @torch.no_grad()
    def score(self, texts: TokenTexts, images: Tensor | None = None, seen: bool = True) -> Tensor:
        """Our scores over these classes."""
        mask = torch.full((len(texts),), seen)
        images = self.images if images is None else images
        return self.method.eval().scores(images, self.method.encode_classes(texts), mask)

    def evaluate(self) -> dict[str, Tensor]:
        """All `eval.*`, without that prefix."""
        found = {"logits": self.score(self.texts)}
        if "eval.logits_novel" in self.tensors:
            found["logits_novel"] = self.score(self.read_texts("novel."), seen=False)
        return found

    def outputs(self, out: dict[str, Tensor]) -> dict[str, Tensor]:
        """All `out.*`, without that prefix, from what `loss` returned, before the first update."""
        return out

    def zero_shot(self) -> dict[str, Tensor]:
        return {
            "image_features": frozen.image_features(self.clip, self.images),
            "text_features": frozen.text_features(self.clip, self.prompts),
        }

    def load(self, init: dict[str, Tensor]) -> None:
        parameters = dict(self.method.named_parameters())
        filled = dict.fromkeys(parameters, 0)
        with torch.no_grad():
            for reference, value in init.items():
                name, row = self.place(reference)
                target = parameters[name] if row is None else parameters[name][row]
                assert target.shape == value.shape, reference
                target.copy_(value)
                filled[name] += value.numel()
        assert filled == {name: p.numel() for name, p in parameters.items()}, "init does not fill every parameter"

    def named(self, references: Iterable[str], tensors: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
        """Tensors under our names (by default our parameters) under the reference's."""
        found = {}
        for reference in references:
            name, row = self.place(reference)
            tensor = tensors[name]
            assert tensor is not None, f"{name} has no gradient"
            found[reference] = tensor if row is None else tensor[row]
        return found

    def parameters(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.method.named_parameters()}

    def training(self) -> TrainSettings:
        """The file's optimiser and rate over the method's published settings. A single epoch has no warm-up."""
        meta = self.meta
        published = TrainSettings(**self.method.train_settings)
        assert meta["optimizer"].lower() == published.optimizer
        assert tuple(meta.get("betas", (0.9, 0.999))) == (0.9, 0.999), "our optimisers take no others"
        given = {name: meta[name] for name in ("lr", "weight_decay")}
        if published.optimizer == "sgd":
            given["momentum"] = meta["momentum"]
        else:
            assert meta.get("eps", 1e-8) == published.eps
        schedule = published.schedule if "train.lr" in self.tensors else "epoch"
        return replace(published, epochs=1, schedule=schedule, **given)

    # The run

    def batch(self, number: int) -> Batch:
        return Batch(self.images, self.labels, len(self.labels))

    def rate(self, number: int) -> float:
        return learning_rate(self.training(), 1, number / self.meta["steps"])

    def take(self, step: GoldenStep) -> Tensor:
        return self.method.step(step)

    def trace(self, step: GoldenStep) -> dict[str, Tensor]:
        """What `train.*` holds of one step, besides the losses."""
        return {"lr": torch.tensor(step.lr)} if "train.lr" in self.tensors else {}

    def train(self, check: Check) -> None:
        """The steps, held to `out.*`, `grad.*` and `train.*`."""
        group = self.golden.group
        optimizer = make_optimizer(self.training(), [p for p in self.method.parameters() if p.requires_grad])
        trace: dict[str, list[Tensor]] = {}
        for number in range(self.meta["steps"]):
            step = GoldenStep(self, optimizer, number)
            loss = self.take(step)
            for name, value in {"losses": loss, **self.trace(step)}.items():
                trace.setdefault(name, []).append(value)
            if number == 0:
                check("out", step.outputs, self.without_inputs("out."))
                names = [name for name, p in self.method.named_parameters() if p.requires_grad]
                first = dict(zip(names, step.updates[0], strict=True))
                check("grad", self.named(group("grad."), first), group("grad."))
                self.after_first(step, check)
            self.after_step(number)
        check("train", {name: torch.stack(values) for name, values in trace.items()}, self.without_inputs("train."))

    def after_first(self, step: GoldenStep, check: Check) -> None:
        """Further checks of the first step."""
        return

    def after_step(self, number: int) -> None:
        """What a method does between steps."""
        return

    def extra(self, check: Check) -> None:
        """Results that only this method's file has; called before the run."""
        return

    def without_inputs(self, prefix: str) -> dict[str, Tensor]:
        return {k: v for k, v in self.golden.group(prefix).items() if prefix + k not in self.inputs}

    def verify(self, check: Check) -> None:
        """Everything in the file."""
        check("zero_shot", self.zero_shot(), self.golden.group("zero_shot."))
        self.extra(check)
        self.train(check)
        final = self.golden.group("final.")
        check("final", self.named(final, self.parameters()), final)
        check("eval", self.evaluate(), self.without_inputs("eval."))


class GoldenStep(BatchStep):
    """The loop's own step, with a record of what the method asked of it."""

    def __init__(self, case: Case, optimizer: torch.optim.Optimizer, number: int) -> None:
        parameters: list[Tensor] = [p for p in case.method.parameters() if p.requires_grad]
        rate = case.rate(number)
        for group in optimizer.param_groups:
            group["lr"] = rate
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        trainer = Trainer(parameters, optimizer, scaler, None, Processes("cpu"), accumulate=1, seed=0)
        super().__init__(trainer, case.batch(number), number, rate)
        self.case = case
        self.outputs: dict[str, Tensor] = {}
        self.calls: list[list[tuple[Tensor, Gradients]]] = []
        self.updates: list[Gradients] = []
        self.states: list[dict[str, Tensor]] = []
        """Our parameters behind each update."""

    def gradients(self, loss: Loss, *names: str) -> list[tuple[Tensor, Gradients]]:
        def recorded(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            out = loss(images, labels)
            if not self.outputs:
                self.outputs = self.case.outputs(out)
            return out

        self.calls.append(super().gradients(recorded, *names))
        return self.calls[-1]

    def update(self, gradients: Gradients) -> None:
        self.updates.append([None if g is None else g.clone() for g in gradients])
        super().update(gradients)
        self.states.append({name: p.clone() for name, p in self.case.parameters().items()})
