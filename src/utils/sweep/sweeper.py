"""`-m`: Hydra's sweeper, as Optuna's own loop `study.optimize` with each trial in a process of its own.

It has the settings of Hydra's official Optuna sweeper, and adds a pruner, resuming, retries and limits
(`src/utils/config/sweep_settings.py`). A trial starts the moment another one ends. A sweep that was killed is
resumed with `resume_study=latest`. Several processes on one storage can share one study. Any of Hydra's
launchers runs the trials; the default is `src/utils/sweep/launcher.py`.

This file turns the command line into a study: which study is resumed, its overrides, its search space, its
name. `src/utils/sweep/optimize.py` runs the trials.
"""

import logging
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import src.utils.startup  # noqa: F401  before Optuna imports torch
from src.utils.config.overrides import merge_overrides, override_key
from src.utils.config.sweep_settings import check_limits
from src.utils.errors import UserError
from src.utils.paths import STUDIES, Experiment
from src.utils.pipeline.inputs import prepare_inputs_of_sweep
from src.utils.pipeline.manifest import code_digests, json_digest
from src.utils.pipeline.pins import pinned, pins_of
from src.utils.process import WORKER
from src.utils.runs.restore import ensure_version
from src.utils.settings import Settings, trains_on_cpu
from src.utils.study.lock import study_lock
from src.utils.study.samplers import (
    create_pruner,
    create_sampler,
    is_default_pruner,
    reseed_sampler,
)
from src.utils.study.search_space import SearchSpace, load_custom_search_space
from src.utils.study.storage import open_storage
from src.utils.study.study import (
    EXPERIMENT,
    GRID,
    OVERRIDES,
    SETTINGS,
    check_code,
    count_trials,
    find_study,
    initialize_study,
    pin_inputs,
    pinned_inputs,
)
from src.utils.sweep.board import show_board
from src.utils.sweep.folder import check_folder, default_study_name, use_folder
from src.utils.sweep.launcher import ForkLauncher
from src.utils.sweep.live_table import LiveTable
from src.utils.sweep.optimize import Optimization
from src.utils.sweep.study_run import StudyRun
from src.utils.workers.job import jobs_of
from src.utils.workers.submit import search_submission, split_workers

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
from optuna.trial import TrialState

log = logging.getLogger(__name__)
NO_PRUNER = "hydra/sweeper/pruner=none"
SEED_STEP = 7919  # a prime: the seed of a resumed study is far from that of any other
# Overrides of Hydra that belong to one process of a study, or are stored by other means
NOT_STORED = (
    "hydra.sweeper.n_trials",  # a user attribute of the study
    "hydra.sweeper.n_jobs",
    "hydra.sweeper.storage",
    "hydra.sweeper.study_name",
    "hydra.launcher.n_jobs",
    "hydra.sweep.dir",
    "hydra.verbose",
)


class SearchSweeper(Sweeper):
    """Hydra creates it, calls `setup` with the composed config, and then `sweep` with the overrides."""

    def __init__(self, **_: Any) -> None:
        """Ignores the settings: `setup` gets the whole config."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Create the launcher.

        Raises:
            UserError: a number among the settings is out of its range, or the launcher has no time limit.
        """
        self.context, self.task = hydra_context, task_function
        self.program: Any = getattr(task_function, "__self__", None)  # the experiment's Program
        self._use_config(config)

    def sweep(self, arguments: list[str]) -> None:
        """Run the whole sweep. All settings are checked before anything is written.

        Raises:
            UserError: a setting, the search space or the study store is refused, or too many trials fail.
        """
        configure_log(self.cfg.hydra.hydra_logging, self.cfg.hydra.verbose)
        experiment = self._experiment()
        resumed = self._find_resumed_study(experiment)
        arguments, of_workers = split_workers(arguments, self.cfg)
        overrides = self._compose(arguments, resumed)
        space = self._search_space(overrides, resumed)
        warn_of_luck(space)
        if space.is_grid and is_default_pruner(self.cfg):
            self._recompose([*self.hydra_overrides, NO_PRUNER], overrides if resumed else arguments)
        checked = self._check_points(space, of_workers)
        if isinstance(self.launcher, ForkLauncher) and all(map(trains_on_cpu, checked)):
            self.launcher.share_cores()
            self._share_machine(self.launcher)
        is_forked = isinstance(self.launcher, ForkLauncher)
        submission = search_submission(experiment, checked, self.settings.storage, is_forked)
        custom_name = self.settings.custom_search_space
        custom_search_space = load_custom_search_space(custom_name, self.program, experiment)
        options = self._study_options(space)
        check_folder(self.cfg.hydra.sweep.dir)
        name = resumed.study_name if resumed else self._new_name(experiment, space)
        if submission is not None and submission.workers.dry_run:
            submission.print_study(name, resumed is not None)
            return
        known = [one for one in self.storage.get_all_studies() if one.study_name == name]
        pins = pinned_inputs(known[0]) if known else {}
        for data, digest in pins.items():
            ensure_version(data, digest)
        with pinned(pins):
            inputs = prepare_inputs_of_sweep(checked)
        with study_lock(name, self.storage):
            study = optuna.create_study(
                storage=self.storage, study_name=name, load_if_exists=True, **options
            )
            self._initialize(study, experiment, overrides, space, resumed is not None)
            pin_inputs(study, pins_of(inputs))
            use_folder(study, self.cfg, is_set=self._is_set("hydra.sweep.dir"))
            if submission is None:
                live_table = LiveTable(study, self.n_jobs)
                study_run = StudyRun(study, experiment, self.cfg)
            else:
                submission.submit_study(study, is_resumed=resumed is not None, is_new=not known)
        if submission is not None:
            show_board(study, jobs_of(study.user_attrs), self.hydra_overrides)
            return
        optimization = Optimization(
            study, space, self.launcher, study_run.run.id, self.cfg, custom_search_space
        )
        with optimization.interruptible(live_table.on_interrupt), study_run, live_table:
            optimization.run(self.n_jobs, [live_table.on_trial_end, study_run.on_trial_end])
            optimization.exit_unless_successful()

    @cached_property
    def storage(self) -> BaseStorage:
        """The study store, which is opened when it is first needed."""
        return open_storage(self.settings.storage)

    def _experiment(self) -> Experiment:
        program = self.program
        return program.experiment if program else Experiment.named(self.cfg.hydra.job.name)

    def _find_resumed_study(self, experiment: Experiment) -> FrozenStudy | None:
        reference = self.cfg.get("resume_study")
        if not reference:
            return None
        if self.settings.storage is None and not STUDIES.exists():
            raise UserError(f"there is no study of {experiment} to resume yet")
        return find_study(self.storage, str(reference), experiment)

    def _compose(self, arguments: list[str], resumed: FrozenStudy | None) -> list[str]:
        """The overrides of the experiment; on resume, all overrides that the study stores are applied."""
        overrides = [one for one in arguments if override_key(one) != "resume_study"]
        if resumed is None:
            return overrides
        stored = resumed.user_attrs
        overrides = merge_overrides(stored[OVERRIDES], overrides)
        hydra_overrides = merge_overrides(stored.get(SETTINGS, []), self.hydra_overrides)
        self._recompose(hydra_overrides, [*overrides, f"resume_study={resumed.study_name}"])
        return overrides

    def _recompose(self, hydra_overrides: list[str], overrides: list[str]) -> None:
        """Use the config that these overrides would give on the command line."""
        config = self.context.config_loader.load_configuration(
            config_name=self.cfg.hydra.job.config_name,
            overrides=[*hydra_overrides, *overrides],
            run_mode=RunMode.MULTIRUN,
        )
        config.hydra.mode = RunMode.MULTIRUN
        OmegaConf.copy_cache(from_config=self.cfg, to_config=config)
        HydraConfig.instance().set_config(config)
        self._use_config(config)

    def _use_config(self, config: DictConfig) -> None:
        self.cfg, self.settings = config, config.hydra.sweeper
        self.hydra_overrides: list[str] = OmegaConf.to_container(  # type: ignore[assignment]
            config.hydra.overrides.hydra, resolve=False
        )
        check_limits(self.settings)
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self.context, task_function=self.task, config=config
        )
        if isinstance(self.launcher, ForkLauncher):
            self.launcher.timeout = self.settings.trial_timeout
            self._share_machine(self.launcher)
            return
        if self.settings.trial_timeout:
            raise UserError("hydra.sweeper.trial_timeout needs hydra/launcher=fork")
        is_serial = isinstance(self.launcher, BasicLauncher)  # it runs jobs in this process
        self.n_jobs = 1 if is_serial else self.settings.n_jobs or 1

    def _share_machine(self, launcher: ForkLauncher) -> None:
        launcher.slots.resize(self.settings.n_jobs or launcher.slots.count)
        self.n_jobs = launcher.slots.count

    def _search_space(self, overrides: list[str], resumed: FrozenStudy | None) -> SearchSpace:
        if resumed is not None:
            use_sampler = not resumed.user_attrs[GRID]
        else:
            keys = ("hydra.sweeper.sampler", "hydra.sweeper.n_trials")
            use_sampler = any(self._is_set(key) for key in keys)
        return SearchSpace.from_overrides(overrides, self.cfg, use_sampler)

    def _is_set(self, key: str) -> bool:
        """Whether an override of Hydra sets it."""
        return any(override_key(one) == key for one in self.hydra_overrides)

    def _check_points(self, space: SearchSpace, more: Sequence[str]) -> list[Settings]:
        """Compose and check points of the search space, with more overrides; returns their settings."""
        checked = []
        for point in list(space.points_to_check()) or [{}]:
            overrides = [*space.trial_overrides(point), *more]
            config = self.context.config_loader.load_sweep_config(self.cfg, overrides)
            if self.program is not None:
                with space.integer_hints():
                    checked.append(self.program.check(config))
        return checked

    def _study_options(self, space: SearchSpace) -> dict[str, Any]:
        return {
            "sampler": create_sampler(self.settings, space, self.cfg.get("seed")),
            "pruner": create_pruner(self.settings),
            "directions": space.directions,
        }

    def _new_name(self, experiment: Experiment, space: SearchSpace) -> str:
        """The setting study_name, which processes that share a study have in common, or a free name."""
        if self.settings.study_name:
            return str(self.settings.study_name)
        folder = Path(self.cfg.hydra.sweep.dir)
        name = default = default_study_name(experiment, folder, space.distributions)
        used, number = {study.study_name for study in self.storage.get_all_studies()}, 1
        while name in used:
            number += 1
            name = f"{default}-{number}"
        return name

    def _initialize(
        self,
        study: optuna.Study,
        experiment: Experiment,
        overrides: list[str],
        space: SearchSpace,
        is_resumed: bool,
    ) -> None:
        is_joined = EXPERIMENT in study.user_attrs  # another process has made the study
        if not space.is_grid and is_joined:
            study.sampler = reseed_sampler(study.sampler, self.settings, self._next_seed(study))
        keeps_n_trials = is_resumed and not self._is_set("hydra.sweeper.n_trials")
        n_trials = None if keeps_n_trials else self.settings.n_trials
        settings = stored_overrides(self.hydra_overrides)
        check_code(study, experiment, json_digest(code_digests(experiment)), is_resumed)
        initialize_study(study, experiment, overrides, settings, space, n_trials)

    def _next_seed(self, study: optuna.Study) -> int | None:
        """A new seed for a resumed study; none for a process that works on a study with others: it would draw
        the points that they draw, too."""
        has_begun = bool(study.get_trials(deepcopy=False))
        if WORKER in os.environ or not has_begun or count_trials(study, TrialState.RUNNING):
            return None
        seed = self.settings.sampler.get("seed")
        seed = self.cfg.get("seed") if seed is None else seed
        return None if seed is None else (seed + SEED_STEP * len(study.trials)) % 2**32


def warn_of_luck(space: SearchSpace) -> None:
    """Warn where the best trial may be no more than the luckiest: a seed or fold is searched."""
    for name in ("seed", "fold"):
        if name in space.distributions:
            log.warning(
                "%s is searched: the best trial is then the luckiest one; %ss=N gives each trial the mean",
                *(name, name),
            )


def stored_overrides(hydra_overrides: Sequence[str]) -> list[str]:
    """Return those overrides of Hydra that are stored with a study."""
    return [one for one in hydra_overrides if override_key(one) not in NOT_STORED]
