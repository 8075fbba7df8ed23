"""Writing metrics to MLflow: the run's own in batches, and the system metrics of its process.

One `log_metric` takes 7 ms; a batch of a thousand metrics takes 0.1 s.
"""

import logging
import posixpath
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, SupportsFloat

from src.utils.store.location import tracking_uri

from mlflow.entities import Metric
from mlflow.system_metrics import system_metrics_monitor
from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)
FLUSH_SECONDS = 5.0  # the longest time between two batches of a run that logs
BATCH = 1000  # metrics; MLflow's limit for one call
MAX_NAME = 250  # letters; MLflow's limit for the name of a metric
SAMPLE_SECONDS = 2  # between two samples of the system metrics


class MetricBuffer:
    """Collects metrics and writes them in batches: every few seconds, and on `flush`."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.client, self.run_id = client, run_id
        self.latest: dict[str, float] = {}  # the last value of each metric that was written
        self._stored_names: dict[str, str] = {}
        self._steps: dict[str, int] = {}  # at which each was last added
        self._waiting: list[tuple[str, SupportsFloat, int, int]] = []  # name, value, time, step
        self._flushed = time.monotonic()

    def add(self, metrics: Mapping[str, SupportsFloat], step: int) -> None:
        """Add one value of each metric; a second one of the same step is ignored.

        Tensors are converted when they are written, so that the training loop needn't wait for them.
        """
        now = int(time.time() * 1000)
        self._waiting += [
            (self.stored_name(name), value, now, step)
            for name, value in metrics.items()
            if self._steps.get(name) != step
        ]
        self._steps |= dict.fromkeys(metrics, step)
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def copy(self, run_id: str, names: Iterable[str]) -> None:
        """Write the whole history of some metrics of another run."""
        for name in names:
            history = self.client.get_metric_history(run_id, name)
            history.sort(key=lambda one: (one.step, one.timestamp))
            self._waiting += [(name, one.value, one.timestamp, one.step) for one in history]
        self.flush()

    def stored_name(self, name: str) -> str:
        """The name that MLflow accepts; a warning is logged once if it is another one."""
        if name in self._stored_names:
            return self._stored_names[name]
        stored = self._stored_names[name] = mlflow_name(name)
        if stored != name:
            log.warning("MLflow takes no metric named %s: written as %s", name, stored)
        return stored

    def flush(self) -> None:
        """Write the metrics that are waiting."""
        rows, self._waiting = self._waiting, []
        metrics = [Metric(name, float(value), now, step) for name, value, now, step in rows]
        for start in range(0, len(metrics), BATCH):
            self.client.log_batch(self.run_id, metrics=metrics[start : start + BATCH])
        self.latest |= {metric.key: metric.value for metric in metrics}
        self._flushed = time.monotonic()


def mlflow_name(metric: str) -> str:
    """The nearest name of a metric that MLflow accepts: `recall_10` for `recall@10`."""
    path = posixpath.normpath(re.sub(r"[^\w/. :-]", "_", metric)).lstrip("/")
    return re.sub(r"^\.+(?=/|$)", "_", path)[:MAX_NAME]


@contextmanager
def system_metrics(run_id: str) -> Iterator[None]:
    """Log CPU, memory, disk, network and GPU as metrics `system/…`, by MLflow's own monitor."""
    monitor: Any = system_metrics_monitor  # it has no types
    monitor = monitor.SystemMetricsMonitor(run_id, SAMPLE_SECONDS, tracking_uri=tracking_uri())
    monitor.start()
    try:
        yield
    finally:
        # A run shorter than SAMPLE_SECONDS gets a sample, too. CPU load is measured since the sample
        # before; the very first says 0 %.
        monitor.collect_metrics()
        monitor.publish_metrics(monitor.aggregate_metrics())
        monitor.finish()
