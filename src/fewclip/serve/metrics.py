"""What a server counts, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The counters of one application, in a registry of its own: two applications in one process don't share them."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("fewclip_requests", "Requests answered.", ("path", "status"), registry=registry)
        self.images = Counter("fewclip_images", "Images predicted.", registry=registry)
        self.refused = Counter(
            "fewclip_images_refused", "Images that could not be read or were too large.", registry=registry
        )
        self.request_seconds = Histogram(
            "fewclip_predict_seconds", "Time the server took for a POST /predict.", buckets=SECONDS, registry=registry
        )
        self.model_seconds = Histogram(
            "fewclip_model_seconds", "Time of one run of the model.", buckets=SECONDS, registry=registry
        )
        self.batch = Histogram(
            "fewclip_batch_images", "Images in one run of the model.", buckets=SIZES, registry=registry
        )

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A number that is read whenever the metrics are."""
        Gauge(name, text, registry=self.registry).set_function(read)

    def text(self) -> bytes:
        return generate_latest(self.registry)
