"""What the daemon measures of itself, in Prometheus' text format."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from chatd.node import Node

_LAGS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds


class Metrics:
    """The measures of one node."""

    def __init__(self, node: Node) -> None:
        disable_created_metrics()  # a further series for each, which nobody asks for
        self._registry = registry = CollectorRegistry()
        self._lag = Histogram(
            "chatd_loop_lag_seconds",
            "How late the event loop came to the heartbeat, ten times a second.",
            buckets=_LAGS,
            registry=registry,
        )
        connections = Gauge("chatd_connections", "Open sessions.", registry=registry)
        connections.set_function(lambda: len(node.hub.sessions))
        usable = Gauge(
            "chatd_database_usable", "1 if the last use of it succeeded, else 0.", registry=registry
        )
        usable.set_function(lambda: node.store.usable)

    def lagged(self, seconds: float) -> None:
        """A beat came so late."""
        self._lag.observe(seconds)

    def text(self) -> bytes:
        """All of it (text/plain; version=0.0.4)."""
        return generate_latest(self._registry)
