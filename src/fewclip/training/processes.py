"""One process or several: what `torchrun` or `accelerate launch` started, as seen by the training loop."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fewclip.errors import SettingsError


def find_device(name: str | torch.device | None) -> torch.device:
    """A device by its name; None for a GPU if there is one.

    Raises:
        SettingsError: there is no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without CUDA
        reason = str(error).splitlines()[0]
        raise SettingsError(f"There is no device {str(name)!r} ({reason}): use cpu, cuda, cuda:1, …") from None
    return device


class Processes:
    """Rank and number of the processes that train together; a single one without a launcher.

    Gradients are added up over the processes, each of which has weighted its loss by its share of the batch, so the
    sum is the gradient of the whole batch.
    """

    def __init__(self, device: str | torch.device | None = None) -> None:
        self.count, self.rank = int(os.environ.get("WORLD_SIZE", "1")), 0
        self._state: Any = None
        if self.count > 1:
            try:
                from accelerate import PartialState
            except ImportError as error:
                raise SettingsError(
                    "Training in several processes needs accelerate, which is not installed: "
                    "pip install 'fewclip[distributed]'."
                ) from error
            self._state = PartialState(cpu=str(device) == "cpu")
            self.rank, self.count = self._state.process_index, self._state.num_processes
            self.device = self._state.device
        else:
            self.device = find_device(device)

    @property
    def main(self) -> bool:
        """The process that writes files and shows progress."""
        return self.rank == 0

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in one exchange."""
        if self.count == 1 or not tensors:
            return
        from torch.distributed import all_reduce

        flat = torch.cat([t.detach().flatten() for t in tensors])
        all_reduce(flat)
        for tensor, total in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))

    def wait(self) -> None:
        """Wait until every process gets here."""
        if self._state is not None:
            self._state.wait_for_everyone()
