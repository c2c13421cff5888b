"""A page that Prometheus scrapes while the run goes on: the last value of every metric, by run and stage."""

import importlib
import re
from collections.abc import Mapping
from typing import Any

from nemo_cascade.telemetry.sinks.sink import SinkRun

_NO_NAME = re.compile(r"[^a-zA-Z0-9_]")


class PrometheusSink:
    """Serve gauges `nemo_cascade_METRIC{run, stage}`; the address stands in the run folder's `prometheus.address`.

    Args:
        run: the run.
        port: where; 0: a free one.
        address: that it listens on; 0.0.0.0 opens it to the network.
    """

    def __init__(self, run: SinkRun, port: int = 0, address: str = "127.0.0.1") -> None:
        self._prometheus = importlib.import_module("prometheus_client")
        self._registry = self._prometheus.CollectorRegistry()
        self._name = run.name
        self._gauges: dict[str, Any] = {}
        self._server, self._thread = self._prometheus.start_http_server(port, addr=address, registry=self._registry)
        self._mark = run.folder / "prometheus.address"
        self._mark.write_text(f"http://{address}:{self._server.server_port}/metrics\n", encoding="ascii")

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Set the gauges to one step's values."""
        for name, value in {**values, "step": float(step)}.items():
            key = f"nemo_cascade_{_NO_NAME.sub('_', name)}"
            if key not in self._gauges:
                told = f"{name} of metrics.jsonl, of the last step"
                self._gauges[key] = self._prometheus.Gauge(key, told, ["run", "stage"], registry=self._registry)
            self._gauges[key].labels(self._name, stage).set(value)

    def close(self) -> None:
        """Take the page down."""
        self._server.shutdown()
        self._thread.join()
        self._mark.unlink(missing_ok=True)
