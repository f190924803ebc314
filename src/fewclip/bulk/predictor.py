"""What a worker does: from pieces to rows. The next batches are decoded while one is predicted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from queue import Queue
from threading import Thread
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewclip.adapters.adapter import PREDICT_BATCH, Adapter
from fewclip.bulk.parquet import RowReader
from fewclip.bulk.pieces import Image, Piece, Rows
from fewclip.bulk.plan import read_piece
from fewclip.bulk.table import encode
from fewclip.errors import DataError

AHEAD = 2
"""Batches that are decoded before they are needed."""
DEADLY = "Reading this image ended the process (killed, or out of memory): make it smaller, or leave it out."


@dataclass(frozen=True)
class Spec:
    """What a worker needs to know."""

    plan: str
    adapter: str
    classes: tuple[str, ...] | None
    top: int
    probabilities: bool
    backbone: str | None = None
    device: str | None = None


@dataclass(frozen=True)
class Order:
    """A piece to do, whose line in the plan is at `place`. `careful`: image by image, each announced before it is read,
    those in `skip` left out."""

    number: int
    place: int
    careful: bool = False
    skip: frozenset[int] = frozenset()


class Part(NamedTuple):
    """The rows of the piece `number`, as Parquet."""

    number: int
    data: bytes


class Predictor:
    """Makes rows from pieces of images, with one adapter.

    Raises:
        FewclipError: an adapter or candidates that can't be used.
    """

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.adapter = Adapter.load(spec.adapter, backbone=spec.backbone, device=spec.device)
        self.names = list(self.adapter.classes if spec.classes is None else spec.classes)
        self.candidates = self.adapter.candidates(self.names)
        self.rows = RowReader()

    def parts(self, orders: Iterable[Order], announce: Callable[[int], None] | None = None) -> Iterator[Part]:
        """The part of each order, in order. `announce` is called with the number of each image that is read with care."""
        # Bounded: decoding waits for the model, and the model for whoever takes the parts.
        queue: Queue[_Batch | BaseException | None] = Queue(AHEAD)

        def feed() -> None:
            try:
                with ThreadPoolExecutor(torch.get_num_threads()) as pool:
                    for order in orders:
                        for batch in self._decoded(order, pool, announce):
                            queue.put(batch)
                queue.put(None)
            except BaseException as error:  # raised by the thread that takes from the queue
                queue.put(error)

        Thread(target=feed, daemon=True).start()
        done: list[_Batch] = []
        while (batch := queue.get()) is not None:
            if isinstance(batch, BaseException):
                raise batch
            if batch.pixels is not None:
                scores = self.adapter.pixel_scores(batch.pixels, self.candidates)
                batch.shares = torch.softmax(scores, dim=-1).numpy()
                batch.pixels = None  # a piece of many batches keeps only their probabilities
            done.append(batch)
            if batch.last:
                yield self._part(batch.order, done)
                done = []

    def _decoded(
        self, order: Order, pool: ThreadPoolExecutor, announce: Callable[[int], None] | None
    ) -> Iterator[_Batch]:
        piece: Piece = read_piece(self.spec.plan, order.place)
        size = 1 if order.careful else PREDICT_BATCH
        images, start = self.rows.images(piece) if isinstance(piece, Rows) else piece.images(), 0
        while part := list(islice(images, size)):
            if order.careful and announce is not None:
                announce(start)
            read = [DEADLY] if start in order.skip else list(pool.map(self._read, part))
            start += len(part)
            pixels = [one for one in read if isinstance(one, Tensor)]
            errors = [one if isinstance(one, str) else None for one in read]
            yield _Batch(order, part, errors, torch.stack(pixels) if pixels else None, last=start >= len(piece))

    def _read(self, image: Image) -> Tensor | str:
        """The pixels, or why there are none."""
        try:
            return self.adapter.clip.preprocess(image.load())
        except DataError as error:
            return str(error)
        except OSError as error:
            return f"{image.path} can't be read ({error.strerror or error})."

    def _part(self, order: Order, batches: list[_Batch]) -> Part:
        shares = [batch.shares for batch in batches if batch.shares is not None]
        images = [image for batch in batches for image in batch.images]
        data = encode(
            [image.path for image in images],
            [image.id for image in images],
            [error for batch in batches for error in batch.errors],
            np.concatenate(shares) if shares else np.empty((0, len(self.names)), np.float32),
            self.names,
            self.spec.top,
            self.spec.probabilities,
        )
        return Part(order.number, data)


@dataclass
class _Batch:
    order: Order
    images: list[Image]
    errors: list[str | None]
    pixels: Tensor | None
    last: bool
    shares: np.ndarray | None = None
