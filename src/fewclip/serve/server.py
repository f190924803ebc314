"""The application's threads: those that decode images, the one that runs the model, and the limits on both."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from fewclip.data.names import key
from fewclip.methods.settings import Count, Range, Settings
from fewclip.serve.batching import Batcher
from fewclip.serve.limits import Limits, Refused, check_class_names, to_pixels
from fewclip.serve.metrics import Metrics
from fewclip.serve.model import Answer, Model
from fewclip.serve.requests import Asked


@dataclass(frozen=True, kw_only=True)
class Batching(Settings):
    """How concurrent images share runs of the model."""

    batch: Count = 32
    """Most images in one run of the model."""
    wait_ms: Annotated[float, Range(0, 1000)] = 4.0
    """How long the model waits for images that are still being decoded."""
    decoders: Count = 2
    """Threads that decode images."""


class Server:
    """The model thread, the threads that decode, and the limits on both."""

    def __init__(self, model: Model, limits: Limits, batching: Batching, metrics: Metrics) -> None:
        self.model, self.limits, self.batching, self.metrics = model, limits, batching, metrics
        metrics.gauge("fewclip_images_held", "Images being decoded or waiting.", lambda: self.batcher.held)
        metrics.gauge("fewclip_classes", "Known classes.", lambda: len(model.adapter.classes))

    def start(self) -> None:
        b = self.batching
        self._decoders = ThreadPoolExecutor(b.decoders, thread_name_prefix="fewclip-decode")
        self.batcher = Batcher(
            self.model.run, self.metrics, size=b.batch, wait=b.wait_ms / 1000, queue=self.limits.queue
        )

    def stop(self) -> None:
        """Answer what is waiting, then end the threads."""
        self._decoders.shutdown()
        self.batcher.close()

    async def predict(self, asked: Asked) -> dict[str, Any]:
        """Raises: Refused, FewclipError."""
        if asked.classes is not None:
            check_class_names(asked.classes, self.model.adapter.classes, self.limits)
        loop, preprocess = asyncio.get_running_loop(), self.model.adapter.clip.preprocess
        with self.batcher.places(len(asked.images)) as submit:
            decoding = (
                loop.run_in_executor(self._decoders, to_pixels, data, preprocess, self.limits)
                for _, data in asked.images
            )
            decoded = await asyncio.gather(*decoding, return_exceptions=True)
            self._check_decoded(asked, decoded)
            waiting = [submit(pixels, asked.classes) for pixels in decoded]
            answers = await asyncio.gather(*map(asyncio.wrap_future, waiting))
        rows = [self._ranked(a, name, asked.top) for a, (name, _) in zip(answers, asked.images, strict=True)]
        return {"predictions": rows}

    def _check_decoded(self, asked: Asked, decoded: Sequence[Any]) -> None:
        bad: list[dict[str, Any]] = []
        status = 422
        for place, ((name, _), pixels) in enumerate(zip(asked.images, decoded, strict=True)):
            if isinstance(pixels, Refused):
                bad.append({"index": place, "image": name, "error": str(pixels.detail)})
                status = pixels.status_code
            elif isinstance(pixels, BaseException):
                raise pixels
        if bad:
            self.metrics.refused.inc(len(bad))
            raise Refused(status, bad[0]["error"], images=bad)

    def _ranked(self, answer: Answer, name: str | None, top: int) -> dict[str, Any]:
        order = np.argsort(-answer.probabilities, kind="stable")[:top]
        names = [answer.classes[i] for i in order]
        kinds = self.model.kinds(names)
        return {
            "image": name,
            "classes": [
                {"name": n, "probability": float(answer.probabilities[i]), "kind": kinds[n]}
                for n, i in zip(names, order, strict=True)
            ],
        }

    def classes(self) -> dict[str, Any]:
        adapter = self.model.adapter
        return {
            "trained": list(adapter.trained_classes),
            "added": list(adapter.added_classes),
            "takes_new": adapter.takes_new,
            "method": adapter.method.name,
            "backbone": adapter.clip.name or "unnamed",
        }

    async def add(self, names: Sequence[str]) -> dict[str, Any]:
        """Raises: Refused, FewclipError."""

        def do() -> dict[str, Any]:  # on the model's thread, so that the classes don't change during a run
            adapter = self.model.adapter
            check_class_names(names, adapter.classes, self.limits)
            known = {key(name) for name in adapter.classes}
            new = [name for name in names if key(name) not in known]
            if len(adapter.classes) + len(new) > self.limits.max_classes:
                raise Refused(
                    422,
                    f"The server knows {len(adapter.classes)} classes and {len(new)} are new, but at most "
                    f"{self.limits.max_classes} are allowed (--max-classes).",
                )
            adapter.add_classes(new)
            return self.classes()

        result: dict[str, Any] = await asyncio.wrap_future(self.batcher.call(do))
        return result
