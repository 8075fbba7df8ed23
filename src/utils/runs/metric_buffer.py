"""Metrics on their way to MLflow: one `log_metric` costs 7 ms, a thousand in one batch 0.1 s."""

import logging
import posixpath
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, SupportsFloat

from src.utils.store.location import tracking_uri

from mlflow.entities import Metric
from mlflow.system_metrics import system_metrics_monitor
from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)
SECONDS = 5.0  # how old a metric may grow before it is written
BATCH = 1000  # MLflow's limit for one call
LONGEST = 250  # … and for a name
SAMPLE_SECONDS = 2  # between two samples


def legal(name: str) -> str:
    """A metric's name as MLflow takes it: `recall@10` is `recall_10`."""
    path = posixpath.normpath(re.sub(r"[^\w/. :-]", "_", name)).lstrip("/")
    return re.sub(r"^\.+(?=/|$)", "_", path)[:LONGEST]


class MetricBuffer:
    """Collects metrics and writes them in batches, every few seconds and whenever it is told to."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.client, self.run_id = client, run_id
        self.latest: dict[str, float] = {}
        self._legal: dict[str, str] = {}  # the name that each is written under
        self._steps: dict[str, int] = {}  # at which each was last added
        self._waiting: list[tuple[str, SupportsFloat, int, int]] = []
        self._written = time.monotonic()

    def add(self, metrics: Mapping[str, SupportsFloat], step: int) -> None:
        """One value a step of each; tensors are read when they are written, not in the training loop."""
        now = int(time.time() * 1000)
        self._waiting += [
            (self._legal.get(name) or self._named(name), value, now, step)
            for name, value in metrics.items()
            if self._steps.get(name) != step
        ]
        self._steps |= dict.fromkeys(metrics, step)
        if time.monotonic() - self._written > SECONDS:
            self.flush()

    def _named(self, name: str) -> str:
        """The legal name; what is changed in it is said once."""
        self._legal[name] = legal(name)
        if self._legal[name] != name:
            log.warning("MLflow takes no metric named %s: written as %s", name, self._legal[name])
        return self._legal[name]

    def flush(self) -> None:
        rows, self._waiting = self._waiting, []
        metrics = [Metric(name, float(value), now, step) for name, value, now, step in rows]
        for start in range(0, len(metrics), BATCH):
            self.client.log_batch(self.run_id, metrics=metrics[start : start + BATCH])
        self.latest |= {metric.key: metric.value for metric in metrics}
        self._written = time.monotonic()


@contextmanager
def system_metrics(run_id: str) -> Iterator[None]:
    """MLflow's own monitor; a run shorter than one sample gets one too."""
    monitor: Any = system_metrics_monitor  # it has no types
    monitor = monitor.SystemMetricsMonitor(run_id, SAMPLE_SECONDS, tracking_uri=tracking_uri())
    monitor.start()
    try:
        yield
    finally:
        monitor.collect_metrics()  # since the one before; the very first says 0 % of the CPU
        monitor.publish_metrics(monitor.aggregate_metrics())
        monitor.finish()


# MERGED execution/monitor: CPU, memory, disk, network and GPU while a run runs, as `system/…` metrics.
