"""What the inference of one process counts for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class InferenceMetrics:
    """Counters in ``registry``; without one they are kept for nobody, as for a batcher on its own."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = registry or CollectorRegistry()
        self.batch_images = Histogram(
            "clead_inference_batch_images", "Images of one forward pass.", registry=registry, buckets=_IMAGES
        )
        self.forward_seconds = Histogram(
            "clead_inference_forward_seconds", "Seconds of one forward pass.", registry=registry, buckets=_SECONDS
        )
        self.wait_seconds = Histogram(
            "clead_inference_wait_seconds",
            "Seconds that a request's decoded images wait for their forward pass.",
            registry=registry,
            buckets=_SECONDS,
        )
        self.answered = Counter(
            "clead_images_answered", "Images answered, by what was asked of the model.", ("output",), registry=registry
        )
        self.rejected = Counter(
            "clead_images_rejected", "Images that were not answered, by reason.", ("reason",), registry=registry
        )
