"""What `main` returned, where nothing else says what an experiment is after: its metric `objective`."""

import math
from typing import Any

from src.utils.run import Run
from src.utils.settings import Settings

from hydra.core.hydra_config import HydraConfig

NAME = "objective"


def record_objective(run: Run, settings: Settings, value: Any) -> None:
    """The tag `monitor`, by which leaderboards sort, for a run that has none: without Lightning there is
    no trainer that sets it. It names the setting `monitor`, if that was logged, or what was returned."""
    if not run.leads or "monitor" in run.client.get_run(run.id).data.tags:
        return
    monitor = getattr(settings, "monitor", None)
    if monitor in run.metrics.latest:
        mode = getattr(settings, "mode", None) or _mode(settings)
        run.tag({"monitor": f"{monitor} {mode}"})
        return
    number = _number(value)
    if number is not None:
        run.log({NAME: number})
        run.tag({"monitor": f"{NAME} {_mode(settings)}"})


def _mode(settings: Settings) -> str:
    """As a sweep would take it: its direction, or else the setting `mode`."""
    direction = HydraConfig.get().sweeper.get("direction")
    if direction is None:
        return getattr(settings, "mode", None) or "min"
    return "max" if "max" in str(direction).lower() else "min"


def _number(value: Any) -> float | None:
    """One finite number, of whatever library; several objectives have no order."""
    try:
        number = None if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        return None
    return number if number is not None and math.isfinite(number) else None
