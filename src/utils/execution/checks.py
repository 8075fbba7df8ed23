"""What is checked before anything is written, beside the types of the settings."""

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from src.utils.errors import UserError
from src.utils.execution.process import follows
from src.utils.layout import Experiment
from src.utils.settings import as_typed
from src.utils.store.address import local_database
from src.utils.store.finding import find

from omegaconf import DictConfig, OmegaConf


def check_hydra(config: DictConfig) -> None:
    """UserError for settings of Hydra's own that it would fail on later, or leave files behind."""
    hydra = config.hydra
    if "check" not in (hydra.callbacks or {}):
        raise UserError("config/utils/hydra.yaml was taken out of the settings: no run without it")
    verbose = hydra.verbose
    names = verbose if OmegaConf.is_list(verbose) else [verbose]
    if not isinstance(verbose, bool) and not all(isinstance(name, str) for name in names):
        raise UserError(
            f"hydra.verbose={verbose} is refused: it should be true, false or loggers' names"
        )
    without = follows()  # Lightning starts the further processes of a training without one
    if hydra.output_subdir != ".hydra" and not (without and hydra.output_subdir is None):
        raise UserError(
            f"hydra.output_subdir={as_typed(hydra.output_subdir)} is refused: it should be .hydra, "
            "from where a run keeps its settings"
        )
    for name in ("job_logging", "hydra_logging"):
        logs = OmegaConf.to_container(hydra[name]) or {}
        assert isinstance(logs, dict)
        for key, level in _levels(logs, f"hydra.{name}"):
            if level not in logging.getLevelNamesMapping():
                known = ", ".join(logging.getLevelNamesMapping())
                raise UserError(f"{key}={level} is refused: it should be one of {known}")


def _levels(values: Mapping[Any, Any], place: str) -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _levels(value, f"{place}.{key}")
        elif key == "level" and isinstance(value, str) and "${" not in value:
            yield f"{place}.{key}", value


def check_output(folder: str) -> None:
    """Makes the folder of a run, as Hydra would do next; UserError where it can't be made."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError as error:
        raise UserError(f"hydra.run.dir={folder} can't be made: {error.strerror}") from None
    if not writable:
        raise UserError(f"hydra.run.dir={folder} can't be written to")


def check_store(here: Experiment, resume_run: str | None) -> None:
    """UserError where the MLflow store of `MLFLOW_TRACKING_URI` does not answer, or lacks the run."""
    if local_database() is None:
        from src.utils.store.client import open_store  # late: it imports MLflow, for seconds

        open_store()
    if resume_run is not None:
        find(str(resume_run), str(here))
