"""A Ray cluster: Ray Data streams the pieces through a pool of actors, and holds them back when rows are not taken."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fewclip.bulk.local import Finish
from fewclip.bulk.predictor import Order, Part, Predictor, Spec
from fewclip.bulk.work import KEPT
from fewclip.errors import FewclipError, SettingsError
from fewclip.workers.ray import connected

AT_ONCE = 4
"""Pieces per task: images of the next are decoded while one is predicted."""


@dataclass(frozen=True)
class Ray:
    """`actors` workers on the cluster at `address`, each with `cpus` cores and `gpus` GPUs; by default as many as fit.

    The source, the adapter and the folder of the output must be the same paths on all of its machines. An actor that dies
    is replaced by Ray and its pieces are done again.
    """

    address: str = "auto"
    actors: int | None = None
    cpus: float = 1
    gpus: float = 0

    def __post_init__(self) -> None:
        if self.actors is not None and self.actors < 1:
            raise SettingsError(f"processes is {self.actors}, but it must be at least 1.")

    def __call__(self, orders: Sequence[Order], spec: Spec, finish: Finish) -> None:
        Predictor(spec)  # so that a mistake is reported here, in one sentence
        with connected(self.address) as ray:
            self._run(ray, orders, spec, finish)

    def _run(self, ray: Any, orders: Sequence[Order], spec: Spec, finish: Finish) -> None:
        try:
            from ray.data import ActorPoolStrategy, DataContext, from_items
        except ImportError as error:
            raise SettingsError(f"The executor ray needs Ray Data ({error}): pip install 'fewclip[ray]'.") from error
        context = DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        most = self.actors or max(1, int(ray.cluster_resources().get("CPU", 1) // max(self.cpus, 1e-9)))
        tasks = -(-len(orders) // AT_ONCE)
        pieces = from_items(
            [{"number": order.number, "place": order.place} for order in orders], override_num_blocks=tasks
        )
        parts = pieces.map_batches(
            _Actor,
            fn_constructor_args=(spec, os.getcwd(), max(1, int(self.cpus))),
            batch_size=AT_ONCE,
            compute=ActorPoolStrategy(min_size=1, max_size=max(1, min(most, tasks))),
            num_cpus=self.cpus,
            num_gpus=self.gpus,
        )
        done: set[int] = set()
        try:
            for row in parts.iter_rows():
                if row["number"] not in done:  # a task that was done twice gives its parts twice
                    done.add(row["number"])
                    finish(Part(int(row["number"]), row["rows"]))
        except ray.exceptions.RayError as error:
            raise FewclipError(f"Ray gave up ({str(error).strip().splitlines()[-1]}). {KEPT}") from error
        if len(done) < len(orders):
            raise FewclipError(f"Ray returned {len(done)} of {len(orders)} parts. {KEPT}")


class _Actor:
    """A worker of the cluster."""

    def __init__(self, spec: Spec, folder: str, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        os.chdir(folder)
        self.predictor = Predictor(spec)

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        orders = [Order(int(n), int(p)) for n, p in zip(batch["number"], batch["place"], strict=True)]
        for part in self.predictor.parts(orders):
            yield {"number": [part.number], "rows": [part.data]}
