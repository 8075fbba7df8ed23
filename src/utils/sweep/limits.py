"""What the settings of a sweep may be, and the folder that it writes to."""

from pathlib import Path
from tempfile import TemporaryFile

from src.utils.errors import UserError

from omegaconf import DictConfig

POSITIVE = ("n_trials", "n_jobs", "trial_timeout")


def check_limits(settings: DictConfig) -> None:
    """Refuse numbers that can't be.

    Raises:
        UserError: one is not in its range.
    """
    for name in POSITIVE:
        value = settings[name]
        if value is not None and value <= 0:
            raise UserError(f"hydra.sweeper.{name}={value} is refused: it should be at least 1")
    if not 0 <= settings.max_failure_rate <= 1:
        rate = settings.max_failure_rate
        raise UserError(f"hydra.sweeper.max_failure_rate={rate} is refused: it is from 0 to 1")
    if settings.max_retries < 0:
        retries = settings.max_retries
        raise UserError(f"hydra.sweeper.max_retries={retries} is refused: it should be at least 0")


def make_folder(folder: str | None) -> None:
    """Make hydra.sweep.dir.

    Raises:
        UserError: it is empty, or nothing can be written there.
    """
    if not folder:
        raise UserError("hydra.sweep.dir is empty: name a folder for the trials, or leave it out")
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"hydra.sweep.dir={folder} can't be written: {error.strerror}") from None
