"""`-m`: Hydra sweeps as Optuna's own loop, `study.optimize`, each trial in a process of its own.

Takes what the official Optuna sweeper takes, and adds a pruner and resuming. A trial starts the moment
one ends; a sweep that was killed goes on with `resume=latest`; several processes on one storage share
one study. Any of Hydra's launchers runs the trials, by default ours (`src/utils/sweep/launcher.py`).
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import src.utils.startup  # noqa: F401  before Optuna imports torch
from src.utils.errors import UserError
from src.utils.execution.stages import prepare_all
from src.utils.layout import Experiment
from src.utils.settings import Settings
from src.utils.sweep import study as studies
from src.utils.sweep.board import Board
from src.utils.sweep.launcher import ForkLauncher
from src.utils.sweep.name import study_name
from src.utils.sweep.question import Question, sampler_of
from src.utils.sweep.report import StudyReport
from src.utils.sweep.search import Search
from src.utils.sweep.storage import open_storage

import optuna
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.plugins import Plugins
from hydra.core.utils import configure_log
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra.utils import get_method, instantiate
from omegaconf import DictConfig, OmegaConf
from optuna.storages import BaseStorage

log = logging.getLogger(__name__)


class SearchSweeper(Sweeper):
    """Settings are those of `src/utils/sweep/config.py`; Hydra makes it, sets it up, and sweeps."""

    def __init__(self, **settings: Any) -> None:
        self.settings = OmegaConf.create(settings)

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.cfg, self.context = config, hydra_context
        self.program: Any = getattr(task_function, "__self__", None)  # the experiment's Program
        self.jobs: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
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

    def sweep(self, arguments: list[str]) -> None:
        configure_log(self.cfg.hydra.hydra_logging, self.cfg.hydra.verbose)
        here = Experiment.named(self.cfg.hydra.job.name)
        typed = [one for one in arguments if not one.startswith("resume=")]
        storage = open_storage(self.settings.storage)
        name, typed, known = self._which(storage, here, typed)
        as_search = any(map(self._chose, ("hydra/sweeper/sampler", "hydra.sweeper.n_trials")))
        grid = known.get(studies.GRID)
        question = Question.of(typed, self.settings, as_search if grid is None else not grid)
        name = name or study_name(here, Path(self.cfg.hydra.sweep.dir), question.space)
        prepare_all(self._check(question))
        extend = self._extender()

        with studies.beginning(name):
            study = optuna.create_study(
                storage=storage,
                sampler=sampler_of(self.settings, question),
                pruner=instantiate(
                    self.settings.pruner, _execution_whitelist_=("optuna.pruners.*",)
                ),
                study_name=name,
                directions=question.directions,  # type: ignore[arg-type]  # Optuna checks them
                load_if_exists=True,
            )
            keep = bool(known) and not self._chose("hydra.sweeper.n_trials")
            studies.begin(study, here, typed, question, None if keep else self.settings.n_trials)
            report = StudyReport(study, here, self.cfg)
        board = Board(study, self.n_jobs)
        with report, board:
            search = Search(study, question, self.jobs, report.run.id, self.cfg, extend)
            search.run(self.n_jobs, [board.trial_ended, report.trial_ended], board.interrupted)
            search.verdict()

    def _which(
        self, storage: BaseStorage, here: Experiment, typed: list[str]
    ) -> tuple[str, list[str], dict[str, Any]]:
        """The name of the study ("" for a new one that was given none), its question (as before where
        none was typed), and what is known of it."""
        resume = self.cfg.get("resume")
        if not resume:
            return self.settings.study_name or "", typed, {}
        study = studies.find_study(storage, str(resume), here)
        attributes = study.user_attrs
        return study.study_name, typed or list(attributes[studies.ARGUMENTS]), attributes

    def _chose(self, setting: str) -> bool:
        """Whether a setting of the sweep was typed."""
        return any(
            one.lstrip("+").split("=")[0] == setting for one in self.cfg.hydra.overrides.hydra
        )

    def _check(self, question: Question) -> list[Settings]:
        """Compose and check what may be tried, before anything is written; returns it."""
        checked = []
        for point in list(question.samples()) or [{}]:
            overrides = question.overrides(point)
            config = self.context.config_loader.load_sweep_config(self.cfg, overrides)
            if self.program is not None:
                checked.append(self.program.check(config))
        return checked

    def _extender(self) -> Callable[[DictConfig, optuna.Trial], None] | None:
        """`custom_search_space`: a function that suggests more. Its name is enough where it is in the
        experiment's own file; otherwise it is a dotted path."""
        name = self.settings.custom_search_space
        if not name or "." in name or self.program is None:
            return get_method(name) if name else None
        found = self.program.main.__globals__.get(name)
        if not callable(found):
            file = self.program.file.name
            raise UserError(
                f"hydra.sweeper.custom_search_space={name}: {file} has no such function"
            )
        return found  # type: ignore[no-any-return]  # whatever the person wrote
