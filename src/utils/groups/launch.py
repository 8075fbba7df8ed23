"""Launching the members of a group: each is a job of Hydra, in a process of its own.

alone            as many at a time as there are slots, by `hydra/launcher`; forked from the fork server
in a trial       one after the other, forked from the trial's process, with the trial's cores or GPU
"""

import json
import logging
import multiprocessing
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from src.utils.config.overrides import override_key
from src.utils.pipeline.pins import pins_override, read_pins
from src.utils.process import INPUTS, SHARED_RUN, TRIAL
from src.utils.runs.member import Member, MemberLink
from src.utils.settings import ModelSettings, flatten, trains_on_cpu
from src.utils.sweep.job import convert_result, failure_reason
from src.utils.sweep.launcher import ForkLauncher, start_fork_server

from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

log = logging.getLogger(__name__)
Ended = tuple[Member, Any, str]  # a member, what its main returned, and why it failed
# Settings that the group sets for each of its members
OWN_SETTINGS = {"folds", "fold", "seed", "seeds", "resume_run"}
MAX_MEMBERS = 1000  # of a trial: the numbers of jobs, by which log files are named


class MemberLauncher:
    """Launches members with the command line of their group.

    Args:
        settings: the group's. What differs in them from the command line is added to it: a group that is
            resumed has the settings with which it began.
        typed: the settings as they were composed from the command line.
    """

    def __init__(
        self, task: TaskFunction, group: str, settings: ModelSettings, typed: ModelSettings
    ) -> None:
        self.group = group
        self.in_job = HydraConfig.get().mode == RunMode.MULTIRUN
        self.config = _job_config()
        self.overrides = [*_task_overrides(), *_differences(settings, typed)]
        self.overrides.append(f"folds={settings.folds}")
        with _no_link():
            self.launcher = self._create_launcher(task, trains_on_cpu(settings))

    @property
    def at_a_time(self) -> int:
        """How many members run at the same time."""
        return self.launcher.slots.count if isinstance(self.launcher, ForkLauncher) else 1

    def launch(self, members: Sequence[Member], runs: Mapping[Member, str]) -> Iterator[Ended]:
        """Run members; yields each as soon as it has ended.

        Args:
            runs: the ids of runs that are resumed, by member.
        """
        jobs = {member: self._job_overrides(member, runs.get(member)) for member in members}
        with _no_link():
            if isinstance(self.launcher, ForkLauncher):
                yield from self._fork(self.launcher, jobs)
            else:
                results = self.launcher.launch(list(jobs.values()), 1)
                yield from (_ended(*pair) for pair in zip(jobs, results, strict=True))

    def _create_launcher(self, task: TaskFunction, on_cpu: bool) -> Launcher:
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        context = HydraContext(hydra.config_loader, Callbacks())
        if not self.in_job:
            Plugins.instance().register(ForkLauncher)
            launcher = Plugins.instance().instantiate_launcher(
                hydra_context=context, task_function=task, config=self.config
            )
            if isinstance(launcher, ForkLauncher):
                start_fork_server()
                if on_cpu:
                    launcher.share_cores()
            return launcher
        launcher = ForkLauncher(n_jobs=1, jobs_per_gpu=1)
        launcher.setup(hydra_context=context, task_function=task, config=self.config)
        if multiprocessing.parent_process() is None:  # a launcher that makes no processes
            start_fork_server()
        else:
            launcher.context = multiprocessing.get_context("fork")
        launcher.share_cores()  # it has its trial's GPU
        return launcher

    def _job_overrides(self, member: Member, run_id: str | None) -> list[str]:
        resume = [f"resume_run='{run_id}'"] if run_id else []
        folder = f"hydra.sweep.subdir='{member.name.replace(' ', '-')}'"
        link = MemberLink(self.group, member).to_override()
        pins = pins_override(read_pins())
        return [*self.overrides, *member.overrides, *resume, folder, link, pins]

    def _fork(self, launcher: ForkLauncher, jobs: dict[Member, list[str]]) -> Iterator[Ended]:
        job_number = OmegaConf.select(self.config, "hydra.job.num", default=0)
        first = 1 + (job_number + 1) * MAX_MEMBERS * self.in_job
        with ThreadPoolExecutor(launcher.slots.count) as pool, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This process .* is multi-threaded")
            futures = {
                pool.submit(launcher.launch, [overrides], number): member
                for number, (member, overrides) in enumerate(jobs.items(), first)
            }
            try:
                for future in as_completed(futures):
                    yield _ended(futures[future], future.result()[0])
            except BaseException as error:  # Ctrl-C, or the group needs no more of them
                launcher.stop()
                if isinstance(error, KeyboardInterrupt | SystemExit) and not self.in_job:
                    log.warning(
                        "stopping the running members; resume_run=%s goes on", self.group[:8]
                    )
                raise


def _job_config() -> DictConfig:
    """The config of this process, for jobs in its own output folder."""
    config: Any = deepcopy(HydraConfig.instance().cfg)
    folder = config.hydra.runtime.output_dir
    overrides = config.hydra.overrides.hydra
    kept = [one for one in overrides if TRIAL not in one and INPUTS not in one]
    with open_dict(config), read_write(config.hydra):
        config.hydra.overrides.hydra = [
            *kept,
            "hydra.mode=MULTIRUN",
            f"hydra.sweep.dir='{folder}'",
        ]
        config.hydra.sweep.dir = folder
    assert isinstance(config, DictConfig)
    return config


def _task_overrides() -> list[str]:
    overrides = OmegaConf.to_container(HydraConfig.get().overrides.task)
    assert isinstance(overrides, list)
    return [str(one) for one in overrides if override_key(str(one)) not in OWN_SETTINGS]


def _differences(settings: ModelSettings, typed: ModelSettings) -> Iterator[str]:
    before = dict(flatten(typed.model_dump(mode="json")))
    for name, value in flatten(settings.model_dump(mode="json")):
        if name not in {*OWN_SETTINGS, "reuse"} and before.get(name) != value:
            yield f"++{name}={json.dumps(value)}"


def _ended(member: Member, result: JobReturn) -> Ended:
    result = convert_result(result)
    if result.status is JobStatus.COMPLETED:
        return member, result._return_value, ""
    return member, None, failure_reason(result)


@contextmanager
def _no_link() -> Iterator[None]:
    """Jobs that run in this process, or inherit its environment, are neither its trial nor its run."""
    hidden = {name: os.environ.pop(name) for name in (TRIAL, SHARED_RUN) if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)
