"""The checkpoint of an unfinished run: one file, replaced whole, so that a kill at any moment leaves a usable one."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewclip.errors import OutputError
from fewclip.files.write import as_tensors, write_bytes
from fewclip.methods.base import Method
from fewclip.training.progress import EpochLog


class CheckpointError(OutputError):
    """A checkpoint that can't be resumed from; `reason` completes "the checkpoint …"."""

    def __init__(self, path: Path, reason: str, remedy: str) -> None:
        super().__init__(f"The checkpoint {path} {reason}: {remedy}.")
        self.reason = reason


@dataclass(frozen=True)
class Checkpoint:
    """Trained tensors, what training needs besides them, optimiser state and progress in `path`.

    `run` identifies the run (method, settings, backbone, data). A checkpoint of another run, or a damaged one, is refused;
    with `overwrite` it is ignored and replaced.
    """

    path: Path
    run: dict[str, Any]
    overwrite: bool = False

    def save(
        self, method: Method, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, progress: Progress
    ) -> None:
        tensors = {f"method.{name}": tensor for name, tensor in method.state_dict().items()}
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items() if value is not None}
        tensors |= {f"state.{name}": tensor for name, tensor in method.training_state().items()}
        meta = {"run": self.run, "progress": asdict(progress), "scaler": scaler.state_dict()}
        write_bytes(self.path, as_tensors(tensors, meta))

    def restore(
        self, method: Method, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
    ) -> Progress | None:
        """Put a saved state back and return its progress; None if there is none.

        Raises:
            CheckpointError: the file is damaged, or of another run, and not to be overwritten. Nothing was put back.
        """

        if not self.path.exists():
            return None
        try:
            tensors, meta = self._read(method)
        except CheckpointError:
            if self.overwrite:
                return None
            raise
        own = {k.removeprefix("method."): v for k, v in tensors.items() if k.startswith("method.")}
        method.load_state_dict(own)
        for name, tensor in method.training_state().items():
            tensor.copy_(tensors[f"state.{name}"])
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                state.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        scaler.load_state_dict(meta["scaler"])
        return Progress(**meta["progress"])

    def _read(self, method: Method) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and metadata, checked before anything is put back."""
        from safetensors import SafetensorError, safe_open

        remedy = "delete it, or start over with overwrite"
        try:
            with safe_open(self.path, framework="pt") as file:
                meta = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(self.path, f"is not readable ({error})", remedy) from error
        run, other = json.loads(json.dumps(self.run)), meta.get("run")
        if other != run:
            changed = [key for key in run if not isinstance(other, dict) or run[key] != other.get(key)] or ["version"]
            finish = "finish that run with its own settings, choose another output folder, or start over with overwrite"
            raise CheckpointError(
                self.path, f"belongs to an unfinished run that differs in {', '.join(changed)}", finish
            )
        expected = {f"method.{name}": tensor.shape for name, tensor in method.state_dict().items()}
        expected |= {f"state.{name}": tensor.shape for name, tensor in method.training_state().items()}
        wrong = [name for name, shape in expected.items() if name not in tensors or tensors[name].shape != shape]
        wrong += [name for name in ("progress", "scaler") if name not in meta]
        if wrong:  # such as written by a version that kept other tensors
            raise CheckpointError(self.path, f"does not hold {', '.join(wrong)} as this version needs them", remedy)
        return tensors, meta


@dataclass
class Progress:
    """How far a run has got: `step` steps of `epoch` are done, with the loss so far and the finished epochs."""

    epoch: int = 1
    """Counted from 1 over all stages."""
    step: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    history: list[EpochLog] = field(default_factory=list)

    def end_epoch(self, lr: float) -> None:
        """Record the epoch, whose last step had that learning rate, and begin the next."""
        self.history.append({"epoch": self.epoch, "lr": lr, "loss": self.loss_sum / max(1, self.step)})
        self.epoch, self.step, self.loss_sum = self.epoch + 1, 0, 0.0
