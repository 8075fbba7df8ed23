"""`-m`: Hydra sweeps as Optuna's own loop, `study.optimize`, each trial in a process of its own.

Takes what the official Optuna sweeper takes, and adds a pruner and resuming. A trial starts the moment
one ends; a sweep that was killed goes on with `resume_study=latest`; several processes on one storage share
one study. Any of Hydra's launchers runs the trials, by default ours (`src/utils/sweep/launcher.py`).
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import src.utils.startup  # noqa: F401  before Optuna imports torch
from src.utils.errors import UserError
from src.utils.paths import STUDIES, Experiment
from src.utils.pipeline.inputs import prepare_inputs_of_sweep
from src.utils.settings import Settings
from src.utils.study import study as studies
from src.utils.study.samplers import advance, is_default_pruner, pruner_of, sampler_of
from src.utils.study.search_space import SearchSpace, custom_search_space
from src.utils.study.storage import open_storage
from src.utils.sweep.launcher import ForkLauncher
from src.utils.sweep.live_table import LiveTable
from src.utils.sweep.optimize import Search
from src.utils.sweep.study_run import StudyReport

import optuna
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import configure_log
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf
from optuna.storages import BaseStorage
from optuna.study._frozen import FrozenStudy

NO_PRUNER = "hydra/sweeper/pruner=none"
POSITIVE = ("n_trials", "n_jobs", "trial_timeout")
MOMENT = re.compile(r"\d{4}-(\d\d-\d\d)/(\d\d-\d\d)-\d\d-(\w+)")  # as in config/utils/hydra.yaml
MOST = 2  # names of settings
# Of the process that joins a study, or of the way to it, and not of the study
NOT_KEPT = (
    "hydra.sweeper.n_trials",  # has a place of its own
    "hydra.sweeper.n_jobs",
    "hydra.sweeper.storage",
    "hydra.sweeper.study_name",
    "hydra.launcher.n_jobs",
    "hydra.sweep.dir",
    "hydra.verbose",
)


class SearchSweeper(Sweeper):
    """Settings are those of `src/utils/config/sweep_settings.py`; Hydra makes it, sets it up, and sweeps."""

    def __init__(self, **_: Any) -> None:
        """Hydra hands the settings over here, and again, with all others, to `setup`."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.context, self.task = hydra_context, task_function
        self.program: Any = getattr(task_function, "__self__", None)  # the experiment's Program
        self._use(config)

    def _use(self, config: DictConfig) -> None:
        self.cfg, self.settings = config, config.hydra.sweeper
        self.typed: list[str] = OmegaConf.to_container(  # type: ignore[assignment]  # strings
            config.hydra.overrides.hydra, resolve=False
        )
        check_limits(self.settings)
        self.jobs: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self.context, task_function=self.task, config=config
        )
        if isinstance(self.jobs, ForkLauncher):
            self.jobs.timeout = self.settings.trial_timeout
            self.jobs.slots.number = self.settings.n_jobs or self.jobs.slots.number
            self.n_jobs = self.jobs.slots.number
            return
        if self.settings.trial_timeout:
            raise UserError("hydra.sweeper.trial_timeout needs hydra/launcher=fork")
        in_this_process = isinstance(self.jobs, BasicLauncher)  # one after the other
        self.n_jobs = 1 if in_this_process else self.settings.n_jobs or 1

    def _recompose(self, more: list[str], arguments: list[str]) -> None:
        """Use the settings that there would be, had this been typed."""
        config = self.context.config_loader.load_configuration(
            config_name=self.cfg.hydra.job.config_name,
            overrides=[*more, *arguments],
            run_mode=RunMode.MULTIRUN,
        )
        config.hydra.mode = RunMode.MULTIRUN
        OmegaConf.copy_cache(from_config=self.cfg, to_config=config)
        HydraConfig.instance().set_config(config)
        self._use(config)

    def sweep(self, arguments: list[str]) -> None:
        configure_log(self.cfg.hydra.hydra_logging, self.cfg.hydra.verbose)
        experiment = (
            self.program.experiment if self.program else Experiment.named(self.cfg.hydra.job.name)
        )
        typed = [one for one in arguments if name_of(one) != "resume_study"]
        known = self._known(experiment)
        if known:
            attributes = known.user_attrs
            typed = merged(attributes[studies.ARGUMENTS], typed)
            before = merged(attributes.get(studies.SETTINGS, []), self.typed)
            self._recompose(before, [*typed, f"resume_study={known.study_name}"])
        space = self._question(typed, known)
        if space.grid and is_default_pruner(self.cfg):
            self._recompose([*self.typed, NO_PRUNER], arguments if not known else typed)
        checked = self._check(space)
        extend = custom_search_space(self.settings.custom_search_space, self.program, experiment)
        sampler = sampler_of(self.settings, space, self.cfg.get("seed"))
        pruner = pruner_of(self.settings)
        make_folder(self.cfg.hydra.sweep.dir)
        storage = open_storage(self.settings.storage)
        name = known.study_name if known else self._new_name(experiment, storage, space)
        prepare_inputs_of_sweep(checked)

        with studies.study_lock(name):
            study = optuna.create_study(
                storage=storage,
                sampler=sampler,
                pruner=pruner,
                study_name=name,
                directions=space.directions,  # type: ignore[arg-type]  # checked before
                load_if_exists=True,
            )
            if not space.grid and study.get_trials(deepcopy=False):
                study.sampler = advance(sampler, self.settings, self._next_seed(study))
            keep = known is not None and not self._chose("hydra.sweeper.n_trials")
            n_trials = None if keep else self.settings.n_trials
            studies.begin(study, experiment, typed, kept(self.typed), space, n_trials)
            live_table = LiveTable(study, self.n_jobs)
            report = StudyReport(study, experiment, self.cfg)
        with report, live_table:
            search = Search(study, space, self.jobs, report.run.id, self.cfg, extend)
            search.run(
                self.n_jobs, [live_table.trial_ended, report.trial_ended], live_table.interrupted
            )
            search.verdict()

    def _known(self, experiment: Experiment) -> FrozenStudy | None:
        """The study that is to go on, if any."""
        reference = self.cfg.get("resume_study")
        if not reference:
            return None
        if self.settings.storage is None and not STUDIES.exists():
            raise UserError(f"there is no study of {experiment} to resume yet")
        return studies.find_study(open_storage(self.settings.storage), str(reference), experiment)

    def _question(self, typed: list[str], known: FrozenStudy | None) -> SearchSpace:
        if known is not None:
            return SearchSpace.of(typed, self.cfg, as_search=not known.user_attrs[studies.GRID])
        as_search = any(map(self._chose, ("hydra.sweeper.sampler", "hydra.sweeper.n_trials")))
        return SearchSpace.of(typed, self.cfg, as_search)

    def _new_name(self, experiment: Experiment, storage: BaseStorage, space: SearchSpace) -> str:
        """As typed, for processes that share a study; else one that no study has."""
        if self.settings.study_name:
            return str(self.settings.study_name)
        name = first = study_name(experiment, Path(self.cfg.hydra.sweep.dir), space.space)
        taken, number = {one.study_name for one in storage.get_all_studies()}, 1
        while name in taken:
            number += 1
            name = f"{first}-{number}"
        return name

    def _next_seed(self, study: optuna.Study) -> int | None:
        """For what goes on: another one; for what joins others that are at work: none at all."""
        if studies.count(study, optuna.trial.TrialState.RUNNING):
            return None
        seed = self.settings.sampler.get("seed")
        seed = self.cfg.get("seed") if seed is None else seed
        return None if seed is None else (seed + 7919 * len(study.trials)) % 2**32

    def _chose(self, setting: str) -> bool:
        """Whether a setting of the sweep was typed."""
        return any(name_of(one) == setting for one in self.typed)

    def _check(self, space: SearchSpace) -> list[Settings]:
        """Compose and check what may be tried, before anything is written; returns it."""
        checked = []
        for point in list(space.samples()) or [{}]:
            overrides = space.overrides(point)
            config = self.context.config_loader.load_sweep_config(self.cfg, overrides)
            if self.program is not None:
                with space.hints():
                    checked.append(self.program.check(config))
        return checked


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


def study_name(experiment: Experiment, folder: Path, space: Iterable[str]) -> str:
    """`11-24-17-22-learning_rate+hidden-688d` for multirun/…/2026-11-24/17-22-08-688d."""
    names = [name.lstrip("+").rpartition(".")[2].replace("/", ".") for name in space]
    more = ["more"] if len(names) > MOST else []
    searched = "+".join([*names[:MOST], *more]) or "search"
    place = "/".join(folder.parts[-2:])
    moment = MOMENT.fullmatch(place)
    if moment is None:  # a folder that was typed
        return f"{experiment.name}-{place.replace('/', '-')}-{searched}"
    day, minute, unique = moment.groups()
    return f"{day}-{minute}-{searched}-{unique}"


def name_of(override: str) -> str:
    """`hydra.sweeper.sampler` of `hydra/sweeper/sampler=tpe`, `x` of `+x=1`."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0].replace("/", ".")


def kept(typed: Sequence[str]) -> list[str]:
    """Those of what was typed as hydra.* that a study keeps."""
    return [one for one in typed if name_of(one) not in NOT_KEPT]


def merged(before: Sequence[str], typed: Sequence[str]) -> list[str]:
    """What was typed before, less what is typed now, or belongs to it, as a sampler's own settings do."""
    now = [name_of(one) for one in typed]
    left = [one for one in before if not any(_within(name_of(one), name) for name in now)]
    return [*left, *typed]


def _within(name: str, other: str) -> bool:
    return f"{name}.".startswith(f"{other}.")


# MERGED sweep/limits: What the settings of a sweep may be, and the folder that it writes to.

# MERGED sweep/name: The name of a study: what tells it from others comes first, since tables and charts cut long names.

# MERGED sweep/overrides: What was typed for a sweep, as overrides: what of it belongs to a study, and how it comes back.
