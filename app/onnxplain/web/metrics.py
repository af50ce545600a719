"""Prometheus metrics: requests by model and method, the pool, the cache, the process."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from onnxplain.registry.registry import Registry
from onnxplain.web.cache import ResultCache
from onnxplain.workers.pool import Pool

_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_POOL_COUNTS = {
    "crashes": "Workers that died at work.",
    "killed": "Workers killed because cancelled work did not stop.",
    "refused": "Tasks refused because the queue was full or too long.",
    "deadline": "Tasks stopped at their deadline.",
    "cancelled": "Tasks stopped because the client left.",
    "retried": "Tasks tried again because a worker died for a reason of its own.",
    "quarantined": "Tasks refused because the model had crashed too often.",
}


class Metrics:
    """The instruments of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._requests = Histogram(
            "onnxplain_request_seconds",
            "Time from the first byte of a request to the last of its answer.",
            ("model", "method", "status"),
            registry=self.registry,
            buckets=_SECONDS,
        )
        self._stages = Histogram(
            "onnxplain_stage_seconds",
            "Time of a stage of the work, as in timings_ms of the answer.",
            ("model", "method", "stage"),
            registry=self.registry,
            buckets=_SECONDS,
        )
        self._problems = Counter(
            "onnxplain_problems", "Answers that are problems, by code.", ("code",), registry=self.registry
        )

    def observe(self, model: str, method: str, status: int, seconds: float) -> None:
        """One request was answered. `model` and `method` are empty for other routes."""
        self._requests.labels(model, method, str(status)).observe(seconds)

    def stages(self, model: str, method: str, timings_ms: dict[str, float]) -> None:
        """The stages of one explanation."""
        for stage, ms in timings_ms.items():
            self._stages.labels(model, method, stage).observe(ms / 1e3)

    def problem(self, code: str) -> None:
        """A problem was answered."""
        self._problems.labels(code).inc()

    def watch(self, pool: Pool, cache: ResultCache, models: Registry) -> None:
        """Read pool, cache and models of a service whenever someone asks."""
        self.registry.register(_ServiceCollector(pool, cache, models))

    def text(self) -> bytes:
        """All figures in the Prometheus text format."""
        return generate_latest(self.registry)


class _ServiceCollector(Collector):
    """Reads the state of a service at the moment it is asked."""

    def __init__(self, pool: Pool, cache: ResultCache, models: Registry) -> None:
        self._pool = pool
        self._cache = cache
        self._models = models

    def collect(self) -> Iterator[Metric]:
        """The figures now."""
        pool, cache, models = self._pool, self._cache, self._models.all()
        gauges = {
            "onnxplain_workers": ("Worker processes that run.", pool.alive),
            "onnxplain_workers_busy": ("Workers at work.", pool.busy),
            "onnxplain_queue": ("Tasks that wait for a worker.", pool.waiting),
            "onnxplain_queue_seconds": ("How long a task that came now would wait.", pool.expected_wait_s()),
            "onnxplain_active": ("Tasks taken and not answered yet.", pool.active),
            "onnxplain_models_ready": (
                "Models that can be explained.",
                sum(model.card is not None for model in models),
            ),
            "onnxplain_models_refused": ("Models that were refused.", sum(model.card is None for model in models)),
            "onnxplain_cache_bytes": ("Bytes of answers kept.", cache.bytes),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(name, text, value=value)
        for count, text in _POOL_COUNTS.items():
            yield CounterMetricFamily(f"onnxplain_pool_{count}", text, value=pool.counts[count])
        yield CounterMetricFamily("onnxplain_cache_hits", "Answers that came from the cache.", value=cache.hits)
        yield CounterMetricFamily("onnxplain_cache_misses", "Answers that had to be computed.", value=cache.misses)
