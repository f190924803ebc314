"""Processes of this machine. Each has one piece in work and one waiting, so that it need not wait for either."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from fewclip.bulk.predictor import Order, Part, Predictor, Spec
from fewclip.bulk.work import KEPT
from fewclip.errors import FewclipError, SettingsError
from fewclip.workers.pool import Death, Pool, cores

Finish = Callable[[Part], None]
"""Called by an executor with each part as soon as it is made."""

MOST = 8
"""Processes that are started unless more are asked for: each holds the whole model."""
DEADLY_IMAGES = 3
"""Images of one piece that may end the process that reads them."""


@dataclass(frozen=True)
class Local:
    """`processes` at a time, each with its share of the cores; by default one per core, at most eight, or one per GPU.

    A process that dies is replaced and its pieces are done again. Where one dies twice over the same piece, its images are
    read one by one, and the one that is to blame gets a row with an error.
    """

    processes: int | None = None

    def __post_init__(self) -> None:
        if self.processes is not None and self.processes < 1:
            raise SettingsError(f"processes is {self.processes}, but it must be at least 1.")

    def __call__(self, orders: Sequence[Order], spec: Spec, finish: Finish) -> None:
        devices = _devices(spec.device)
        count = self.processes or (len(devices) if devices[0] != "cpu" else min(cores(), MOST))
        count = min(count, len(orders))
        serve = [partial(_parts, replace(spec, device=devices[n % len(devices)])) for n in range(count)]
        pool = Pool[Order, Part](serve, in_hand=2, alone=lambda order: order.careful)
        pool.run(orders, lambda order, part: finish(part), _again)


def _devices(device: str | None) -> list[str]:
    if device is not None:
        return [device]
    import torch

    return [f"cuda:{n}" for n in range(torch.cuda.device_count())] if torch.cuda.is_available() else ["cpu"]


def _parts(spec: Spec, orders: Iterator[Order], note: Callable[[int], None]) -> Iterator[Part]:
    """What a worker does."""
    return Predictor(spec).parts(orders, note)


def _again(order: Order, death: Death) -> Order:
    """How to do a piece that a process died over: whole, then image by image, then without the image that is to blame."""
    if not death.ready:
        return order
    if not order.careful:
        return replace(order, careful=death.times > 1)
    if death.times > 2 + DEADLY_IMAGES:
        raise FewclipError(
            f"Processes died {death.times} times over the same images (killed, or out of memory): give fewer --processes. "
            f"{KEPT}"
        )
    return order if death.note is None else replace(order, skip=order.skip | {death.note})
