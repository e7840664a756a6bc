"""Metrics for Prometheus: a collector for a registry, and ready applications for ASGI and WSGI.

    app.mount("/metrics", prometheus.asgi_app(bus))            # Starlette, FastAPI
    REGISTRY.register(prometheus.BusCollector(bus))            # wherever prometheus_client serves already

Nothing is counted here: figures are read from the bus when they are asked for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from ..bus import Bus
from ..errors import ConfigError, PostbusError
from ..figures import FAMILIES, Figures, Value, gauges_of, merged, sums_of
from ..tally import EDGES

__all__ = ["BusCollector", "FiguresCollector", "asgi_app", "shown", "wsgi_app"]

_Scope = MutableMapping[str, Any]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class FiguresCollector(Collector):
    """Shows figures that somebody else reads."""

    def __init__(self, read: Callable[[], Figures]) -> None:
        self._read = read

    def describe(self) -> Iterable[Metric]:
        """The families, so that registering reads nothing."""
        return [_family(name, {}) for name in FAMILIES]

    def collect(self) -> Iterable[Metric]:
        """The figures as they are now."""
        figures = self._read()
        return [_family(name, figures[name]) for name in FAMILIES if name in figures]


class BusCollector(FiguresCollector):
    """Shows the figures of one bus.

    Gauges of what is stored are read from the transport, by a thread other than the event loop's: `start_http_server`,
    a WSGI server.  On the thread of a running event loop, where waiting is not possible, they are left out: use
    `asgi_app` there.
    """

    def __init__(self, bus: Bus) -> None:
        super().__init__(self._figures)
        self._bus = bus
        bus.add_up()

    def _figures(self) -> Figures:
        try:
            gauges = self._bus.run_sync(gauges_of(self._bus))
        except ConfigError:  # a running event loop's thread
            return sums_of(self._bus)
        except PostbusError:  # it is not open
            gauges = {"postbus_up": {(): 0}}
        return merged([sums_of(self._bus), gauges])


def asgi_app(bus: Bus) -> Callable[[_Scope, Any, _Send], Awaitable[None]]:
    """An ASGI application that answers every GET with the bus's figures; mount it at /metrics.

    It answers whoever asks: where that is the world, put your own authorization before it.
    """
    bus.add_up()

    async def app(scope: _Scope, receive: Any, send: _Send) -> None:  # noqa: ARG001 - ASGI's signature
        if scope["type"] != "http":
            raise ConfigError(f"the metrics application was called with {scope['type']!r}: mount it where HTTP goes")
        ok = scope["method"] in ("GET", "HEAD")
        body = shown(merged([sums_of(bus), await gauges_of(bus)])) if ok else b""
        headers = [(b"content-type", CONTENT_TYPE_LATEST.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200 if ok else 405, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    return app


def wsgi_app(bus: Bus) -> Callable[[Mapping[str, Any], Callable[..., Any]], Iterable[bytes]]:
    """The same for WSGI."""
    collector = BusCollector(bus)

    def app(environ: Mapping[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            start_response("405 Method Not Allowed", [("Content-Length", "0")])
            return [b""]
        body = _latest(collector)
        start_response("200 OK", [("Content-Type", CONTENT_TYPE_LATEST), ("Content-Length", str(len(body)))])
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]

    return app


def shown(figures: Figures) -> bytes:
    """Figures in the text format."""
    return _latest(FiguresCollector(lambda: figures))


def _latest(collector: Collector) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry)


def _family(name: str, values: Mapping[tuple[str, ...], Value]) -> Metric:
    about = FAMILIES[name]
    match about.kind:
        case "counter":
            counter = CounterMetricFamily(name, about.meaning, labels=about.labels)
            for labels, value in values.items():
                counter.add_metric(labels, _number(value))
            return counter
        case "gauge":
            gauge = GaugeMetricFamily(name, about.meaning, labels=about.labels)
            for labels, value in values.items():
                gauge.add_metric(labels, _number(value))
            return gauge
        case "histogram":
            histogram = HistogramMetricFamily(name, about.meaning, labels=about.labels)
            for labels, value in values.items():
                counts, total = value if isinstance(value, tuple) else ([], value)
                histogram.add_metric(labels, _buckets(counts), total)
            return histogram


def _number(value: Value) -> float:
    return 0.0 if isinstance(value, tuple) else value


def _buckets(counts: Iterable[int]) -> list[tuple[str, float]]:
    """Each with all below it, as Prometheus has them."""
    seen = 0
    buckets = []
    for edge, count in zip((*EDGES, float("inf")), counts, strict=False):
        seen += count
        buckets.append(("+Inf" if edge == float("inf") else str(edge), float(seen)))
    return buckets
