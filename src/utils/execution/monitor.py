"""CPU, memory, disk, network and GPU while a run runs, as `system/…` metrics."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from src.utils.store.address import tracking_uri

from mlflow.system_metrics import system_metrics_monitor

SECONDS = 2  # between two samples


@contextmanager
def system_metrics(run_id: str) -> Iterator[None]:
    """MLflow's own monitor; a run shorter than one sample gets one too."""
    monitor: Any = system_metrics_monitor  # it has no types
    monitor = monitor.SystemMetricsMonitor(run_id, SECONDS, tracking_uri=tracking_uri())
    monitor.start()
    try:
        yield
    finally:
        monitor.collect_metrics()  # since the one before; the very first says 0 % of the CPU
        monitor.publish_metrics(monitor.aggregate_metrics())
        monitor.finish()
