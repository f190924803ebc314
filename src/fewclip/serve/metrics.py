"""Counters, gauges and histograms in Prometheus' text format."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from threading import Lock

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Counter:
    """A number that grows, one for each combination of labels."""

    kind = "counter"

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        self.name, self.text, self.labels = name, text, tuple(labels)
        self._values: dict[tuple[str, ...], float] = {} if labels else {(): 0.0}
        self._lock = Lock()

    def add(self, amount: float = 1.0, *labels: str) -> None:
        with self._lock:
            self._values[labels] = self._values.get(labels, 0.0) + amount

    def value(self, *labels: str) -> float:
        with self._lock:
            return self._values.get(labels, 0.0)

    def lines(self) -> list[str]:
        with self._lock:
            values = sorted(self._values.items())
        return [f"{self.name}{_labels(self.labels, labels)} {_number(value)}" for labels, value in values]


class Gauge:
    """A number that is asked for when it is shown."""

    kind = "gauge"

    def __init__(self, name: str, text: str, read: Callable[[], float]) -> None:
        self.name, self.text, self._read = name, text, read

    def lines(self) -> list[str]:
        return [f"{self.name} {_number(self._read())}"]


class Histogram:
    """How often which values came, in buckets."""

    kind = "histogram"

    def __init__(self, name: str, text: str, bounds: Sequence[float]) -> None:
        self.name, self.text, self.bounds = name, text, tuple(bounds)
        self._counts = [0] * (len(self.bounds) + 1)
        self._sum = 0.0
        self._lock = Lock()

    def observe(self, value: float) -> None:
        with self._lock:
            self._counts[bisect_left(self.bounds, value)] += 1
            self._sum += value

    def lines(self) -> list[str]:
        with self._lock:
            counts, total = list(self._counts), self._sum
        rows, below = [], 0
        for bound, count in zip([*map(_number, self.bounds), "+Inf"], counts, strict=True):
            below += count
            rows.append(f'{self.name}_bucket{{le="{bound}"}} {below}')
        return [*rows, f"{self.name}_sum {_number(total)}", f"{self.name}_count {below}"]


class Metrics:
    """What a server counts."""

    def __init__(self) -> None:
        self.requests = Counter("fewclip_requests_total", "Requests answered.", ("path", "status"))
        self.images = Counter("fewclip_images_total", "Images predicted.")
        self.refused = Counter("fewclip_images_refused_total", "Images that could not be read or were too large.")
        self.request_seconds = Histogram("fewclip_predict_seconds", "Time of a POST /predict in the server.", SECONDS)
        self.model_seconds = Histogram("fewclip_model_seconds", "Time of one run of the model.", SECONDS)
        self.batch = Histogram("fewclip_batch_images", "Images in one run of the model.", SIZES)
        self._all: list[Counter | Gauge | Histogram] = [
            self.requests, self.images, self.refused, self.request_seconds, self.model_seconds, self.batch,
        ]  # fmt: skip

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        self._all.append(Gauge(name, text, read))

    def text(self) -> str:
        rows: list[str] = []
        for metric in self._all:
            rows += [f"# HELP {metric.name} {metric.text}", f"# TYPE {metric.name} {metric.kind}", *metric.lines()]
        return "\n".join(rows) + "\n"


def _labels(names: Sequence[str], values: Sequence[str]) -> str:
    if not names:
        return ""
    escaped = (v.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for v in values)
    return "{" + ",".join(f'{name}="{value}"' for name, value in zip(names, escaped, strict=True)) + "}"


def _number(value: float) -> str:
    return f"{int(value)}" if float(value).is_integer() else repr(float(value))
