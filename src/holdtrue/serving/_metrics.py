"""What a server counts, for Prometheus. A registry of its own, so that several servers may live in one process."""

from typing import final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


@final
class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        """Begin at zero."""
        r = self.registry = CollectorRegistry()
        self.requests = Counter(
            "holdtrue_serve_requests_total", "Answered requests by status", ["status"], registry=r
        )
        self.request_seconds = Histogram(
            "holdtrue_serve_request_seconds",
            "From the whole request to its answer",
            registry=r,
            buckets=_SECONDS,
        )
        self.passes = Counter("holdtrue_serve_passes_total", "Computed passes", registry=r)
        self.pass_seconds = Histogram(
            "holdtrue_serve_pass_seconds", "Computing a pass", registry=r, buckets=_SECONDS
        )
        self.pass_examples = Histogram(
            "holdtrue_serve_pass_examples",
            "Examples in a pass, without what fills it up",
            registry=r,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
        )
        self.waiting = Gauge("holdtrue_serve_waiting_examples", "Examples that wait for a pass", registry=r)
        self.inside = Gauge(
            "holdtrue_serve_inside_requests", "Requests that are not answered yet", registry=r
        )
        self.workers = Gauge("holdtrue_serve_workers", "Workers that take passes", registry=r)
        self.generation = Gauge("holdtrue_serve_generation", "Changes of the mapping so far", registry=r)
        self.deaths = Counter("holdtrue_serve_worker_deaths_total", "Workers that died", registry=r)
        self.retries = Counter(
            "holdtrue_serve_retried_examples_total", "Examples computed again after a death", registry=r
        )
        self.audits = Counter(
            "holdtrue_serve_audits_total",
            "Passes computed again elsewhere, by what came out",
            ["result"],
            registry=r,
        )
        for result in ("equal", "differs"):
            self.audits.labels(result)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)
