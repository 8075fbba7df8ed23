"""`-m`: Hydra sweeps as Optuna's own loop, `study.optimize`, each trial in a process of its own.

Takes what the official Optuna sweeper takes, and adds a pruner and resuming. A trial starts the moment
one ends; a sweep that was killed goes on with `resume=latest`; several processes on one storage share
one study. Any of Hydra's launchers runs the trials, by default ours (`src/utils/launcher.py`).
"""

import logging
from pathlib import Path
from typing import Any

from src.utils.experiment import Program
from src.utils import study as studies
from src.utils.board import Board
from src.utils.errors import UserError
from src.utils.launcher import ForkLauncher
from src.utils.layout import Experiment
from src.utils.question import Question, sampler_of
from src.utils.report import StudyReport
from src.utils.search import Search

import optuna
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
    """Settings are those of `src/utils/sweep_config.py`; Hydra makes it, sets it up, and sweeps."""

    def __init__(self, **settings: Any) -> None:
        self.settings = OmegaConf.create(settings)

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.cfg, self.context = config, hydra_context
        self.jobs: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        if isinstance(self.jobs, ForkLauncher):
            self.jobs.n_jobs = self.settings.n_jobs or self.jobs.n_jobs
            self.jobs.timeout = self.settings.trial_timeout
        elif self.settings.trial_timeout:
            raise UserError("hydra.sweeper.trial_timeout needs hydra/launcher=fork")
        self.n_jobs = self.settings.n_jobs or getattr(self.jobs, "n_jobs", 1)

    def sweep(self, arguments: list[str]) -> None:
        configure_log(self.cfg.hydra.hydra_logging, self.cfg.hydra.verbose)
        here = Experiment(*self.cfg.hydra.job.name.split("/"))
        typed = [one for one in arguments if not one.startswith("resume=")]
        storage = studies.open_storage(self.settings.storage)
        name, typed = self._which(storage, here, typed)
        question = Question.of(typed, self.settings, self._chose("hydra/sweeper/sampler"))
        self._check(question)

        study = optuna.create_study(
            storage=storage,
            sampler=sampler_of(self.settings, question),
            pruner=instantiate(self.settings.pruner, _execution_whitelist_=("optuna.pruners.*",)),
            study_name=name,
            directions=question.directions,  # type: ignore[arg-type]  # Optuna checks them
            load_if_exists=True,
        )
        keep = bool(self.cfg.get("resume")) and not self._chose("hydra.sweeper.n_trials")
        studies.begin(study, here, typed, question, None if keep else self.settings.n_trials)
        board = Board(study, self.n_jobs)
        with StudyReport(study, here) as report, board:
            search = Search(study, question, self.jobs, report.run.id, self.cfg, self._extender())
            search.run(self.n_jobs, [board.trial_ended, report.trial_ended])
        report.summarise(Path(self.cfg.hydra.sweep.dir))
        search.verdict()

    def _which(
        self, storage: BaseStorage, here: Experiment, typed: list[str]
    ) -> tuple[str, list[str]]:
        """The name of the study, and its question where none was typed on resuming."""
        resume = self.cfg.get("resume")
        if not resume:
            moment = "-".join(Path(self.cfg.hydra.sweep.dir).parts[-2:])
            return self.settings.study_name or f"{here.name}-{moment}", typed
        known = studies.find_study(storage, str(resume), here)
        return known.study_name, typed or list(known.user_attrs[studies.ARGUMENTS])

    def _chose(self, setting: str) -> bool:
        """Whether a setting of the sweep was typed."""
        return any(setting in override for override in self.cfg.hydra.overrides.hydra)

    def _check(self, question: Question) -> None:
        """Compose and check the ends of every range, before anything is written."""
        for corner in question.corners():
            config = self.context.config_loader.load_sweep_config(
                self.cfg, question.overrides(corner)
            )
            if Program.running is not None:
                names = [str(key) for key in config if key != "hydra"]
                Program.running.check(OmegaConf.masked_copy(config, names))

    def _extender(self) -> Any:
        """`custom_search_space`: a function that suggests more, by the dotted path of the config."""
        path = self.settings.custom_search_space
        return get_method(path) if path else None
