"""The folder of a sweep, `multirun/<experiment>/<moment>`: all processes of its study share it.

Its name is new in each process, so the first one stores it with the study. A study is named after it.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryFile

from src.utils.errors import UserError
from src.utils.paths import ROOT, Experiment
from src.utils.study.study import FOLDER

import optuna
from omegaconf import DictConfig, open_dict, read_write

# As in config/utils/hydra.yaml: 2026-11-24/17-22-08-688d
SWEEP_FOLDER = re.compile(r"\d{4}-(\d\d-\d\d)/(\d\d-\d\d)-\d\d-(\w+)")
MAX_NAMES = 2  # parameters in the name of a study


def use_folder(study: optuna.Study, config: DictConfig, is_set: bool) -> None:
    """Let a sweep and its jobs write into the folder of the study; the first process stores it.

    Args:
        is_set: whether hydra.sweep.dir was typed: this process then uses that one.
    """
    folder = Path(config.hydra.sweep.dir).absolute()
    if FOLDER not in study.user_attrs:
        is_own = folder.is_relative_to(ROOT)  # another checkout, or machine, has its own root
        study.set_user_attr(FOLDER, str(folder.relative_to(ROOT) if is_own else folder))
    if not is_set:
        folder = ROOT / study.user_attrs[FOLDER]
    with open_dict(config), read_write(config.hydra):
        config.hydra.sweep.dir = str(folder)
        # The config of each job is composed anew, by some launchers in a new process
        config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{folder}'")


def check_folder(folder: str | None) -> None:
    """Check that the first trial can create hydra.sweep.dir; a sweep that is refused leaves no folder.

    Raises:
        UserError: the name is empty, or the folder can't be written.
    """
    if not folder:
        raise UserError("hydra.sweep.dir is empty: name a folder for the trials, or leave it out")
    path = Path(folder).absolute()
    try:
        existing = next(parent for parent in (path, *path.parents) if parent.exists())
        with TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UserError(f"hydra.sweep.dir={folder} can't be written: {error.strerror}") from None


def default_study_name(experiment: Experiment, folder: Path, params: Iterable[str]) -> str:
    """Return a name for a study: `11-24-17-22-learning_rate+hidden-688d`.

    What distinguishes studies comes first, since tables and charts cut long names.

    Args:
        folder: the folder of the sweep, such as multirun/…/2026-11-24/17-22-08-688d.
        params: the parameters of the search space.
    """
    names = [name.lstrip("+").rpartition(".")[2].replace("/", ".") for name in params]
    more = ["more"] if len(names) > MAX_NAMES else []
    searched = "+".join([*names[:MAX_NAMES], *more]) or "search"
    end_of_path = "/".join(folder.parts[-2:])
    match = SWEEP_FOLDER.fullmatch(end_of_path)
    if match is None:  # hydra.sweep.dir was set
        return f"{experiment.name}-{end_of_path.replace('/', '-')}-{searched}"
    day, minute, unique = match.groups()
    return f"{day}-{minute}-{searched}-{unique}"
