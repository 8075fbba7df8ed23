"""Processes that srun or torchrun has started together: they train into one run, that of rank zero.

    srun --ntasks=2 python src/model/model01/program.py trainer.devices=2 trainer.strategy=ddp
    torchrun --nproc-per-node=2 src/model/model01/program.py trainer.devices=2 trainer.strategy=ddp

Rank zero prepares the inputs and opens the run, with the tag `launch` and with what the others need to join
it: its output folder, the versions of its inputs, and its address. The others wait for a run with this tag.
From then on they are as the processes that Lightning starts: they have the variable `SHARED_RUN`, and record
nothing.
"""

import atexit
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from src.utils.errors import UserError
from src.utils.paths import Experiment
from src.utils.process import (
    BUILDING,
    HEARTBEAT_LIMIT,
    INPUTS,
    LAUNCH,
    SHARED_RUN,
    Launch,
    exit_code,
)
from src.utils.runs.heartbeat import is_running
from src.utils.settings import ModelSettings, Settings, TrainingSettings
from src.utils.store.reference import find_record

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict, read_write

SHARED = "launch.shared"  # tag of a run: what the other processes need, as JSON
ENDED = "launch.ended"  # tag of an experiment: the launch whose rank zero has ended without a run
TAG = "launch"
WAIT = 600.0  # seconds that the others wait for the run
CLOSING = 1.5 * HEARTBEAT_LIMIT  # seconds that they wait for it to be closed
POLL = 0.5


def enter_launch(experiment: Experiment, settings: Settings, config: DictConfig) -> None:
    """Find out whether the processes of this launch share a run; all but the first then wait for it.

    Args:
        config: of Hydra, before it makes its folder; another than rank zero writes no folder of its own.

    Raises:
        UserError: the launch has another number of processes than the setting `trainer`, or is none of a
            training; or rank zero has not made its run in time.
        SystemExit: rank zero has ended without one.
    """
    os.environ.pop(LAUNCH, None)
    launch = Launch.current()
    if SHARED_RUN in os.environ or BUILDING in os.environ or launch is None:
        return
    if not _is_shared(launch, experiment, settings):
        return
    os.environ[LAUNCH] = launch.id
    if launch.rank == 0:
        _choose_address(launch)
        atexit.register(_say_ended, experiment)
        return
    run_id, shared = _wait_for_run(experiment, launch)
    os.environ |= {SHARED_RUN: run_id, INPUTS: shared["inputs"]}
    os.environ.setdefault("MASTER_ADDR", shared["address"])
    os.environ.setdefault("MASTER_PORT", shared["port"])
    with open_dict(config), read_write(config.hydra):
        config.hydra.run.dir, config.hydra.output_subdir = shared["folder"], None


def keep_no_log(config: DictConfig) -> None:
    """Let a process that records nothing write no log file, and repeat no line of rank zero."""
    if SHARED_RUN in os.environ:
        with open_dict(config), read_write(config.hydra):
            logging = config.hydra.job_logging
            logging.handlers.pop("file", None)
            logging.root.handlers = [name for name in logging.root.handlers if name != "file"]
            logging.root.level = "ERROR"


def refuse_launch(what: str) -> None:
    """Refuse what starts processes of its own.

    Raises:
        UserError: torchrun has started this process; srun may start several commands of one search.
    """
    launch = Launch.current()
    if launch is not None and launch.by == "torchrun":
        raise UserError(f"{what} starts its own processes: type python instead of torchrun")


def launch_tags() -> dict[str, str]:
    """The tags of the run that is shared; none for any other run."""
    if LAUNCH not in os.environ or SHARED_RUN in os.environ:
        return {}
    shared = {
        "folder": HydraConfig.get().runtime.output_dir,
        "inputs": os.environ.get(INPUTS, "{}"),
        "address": os.environ["MASTER_ADDR"],
        "port": os.environ["MASTER_PORT"],
    }
    atexit.unregister(_say_ended)
    return {SHARED: json.dumps(shared), TAG: os.environ[LAUNCH]}


def _is_shared(launch: Launch, experiment: Experiment, settings: Settings) -> bool:
    """Whether the processes of a launch are those of one training, as the settings ask for it."""
    if getattr(settings, "is_group", False) and launch.by == "torchrun":
        refuse_launch("a group (folds=, seeds=)")
    if not isinstance(settings, TrainingSettings):
        return isinstance(settings, ModelSettings) and launch.by == "torchrun"
    trainer = _trainer(experiment, settings)
    wanted = _processes(trainer)
    if launch.by == "srun" and wanted == 1:  # several runs beside each other
        return False
    if wanted is not None and wanted != launch.size:
        raise UserError(
            f"trainer.devices={trainer['devices']} on {trainer['num_nodes']} nodes are {wanted} processes; "
            f"{launch.by} has started {launch.size}: set trainer.devices and +trainer.num_nodes to match"
        )
    if settings.is_group:
        raise UserError("a group (folds=, seeds=) starts its own processes: srun --ntasks=1")
    if settings.reuse:
        raise UserError(
            f"reuse=true is for runs of one process, and {launch.by} has started several"
        )
    return True


def _trainer(experiment: Experiment, settings: TrainingSettings) -> dict[str, Any]:
    """How many devices and nodes a training is to have; one that is resumed has as many as before."""
    trainer = {"devices": 1, "num_nodes": 1} | settings.trainer
    reference = settings.resume_run or settings.warm_start
    if reference and _processes(trainer) == 1:
        params = find_record(str(reference), str(experiment)).params
        trainer |= {name: params.get(f"trainer.{name}", 1) for name in ("devices", "num_nodes")}
    return trainer


def _processes(trainer: Mapping[str, Any]) -> int | None:
    """The number of processes that the settings ask for; None where the machine decides."""
    devices = trainer["devices"]
    if isinstance(devices, str):
        number = int(devices) if devices.lstrip("-").isdigit() else len(devices.split(","))
        devices = -1 if devices == "auto" else number
    elif not isinstance(devices, int):
        devices = -1 if devices is None else len(devices)
    return None if devices < 0 else devices * int(trainer["num_nodes"])


def _choose_address(launch: Launch) -> None:
    """Where rank zero listens, unless `MASTER_ADDR` and `MASTER_PORT` say it; torchrun sets both."""
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1" if launch.nodes == 1 else _host_name())
    with socket.socket() as probe:
        probe.bind(("", 0))
        os.environ.setdefault("MASTER_PORT", str(probe.getsockname()[1]))


def _host_name() -> str:
    """The name by which other nodes find this one: Slurm's, where it is one of the network."""
    name = os.environ.get("SLURMD_NODENAME", "")
    try:
        socket.gethostbyname(name or "-")
    except OSError:
        return socket.gethostname()
    return name


def _wait_for_run(experiment: Experiment, launch: Launch) -> tuple[str, dict[str, str]]:
    from src.utils.store.mlflow import open_store  # late: most commands join nothing

    client, end = open_store(), time.monotonic() + WAIT
    while time.monotonic() < end:
        there = client.get_experiment_by_name(str(experiment))
        if there is not None:
            text = f"tags.{TAG} = '{launch.id}' AND attributes.status = 'RUNNING'"
            found = client.search_runs([there.experiment_id], text)
            if found:
                return found[0].info.run_id, json.loads(found[0].data.tags[SHARED])
            if there.tags.get(ENDED) == launch.id:
                sys.exit(0)  # rank zero has said why
        time.sleep(POLL)
    raise UserError(
        f"process {launch.rank} of {launch.size} has waited {WAIT / 60:g} minutes for rank zero to begin the "
        "run: if it is still building the inputs, build them with commands of their own first"
    )


def _say_ended(experiment: Experiment) -> None:
    """Tell the waiting processes that there will be no run."""
    from src.utils.store.mlflow import experiment_id, open_store  # late, as above

    with suppress(Exception):  # it has ended with an error of its own
        client = open_store()
        number = experiment_id(client, str(experiment))
        client.set_experiment_tag(number, ENDED, os.environ[LAUNCH])


@contextmanager
def following(run: Any) -> Iterator[None]:
    """Another process than rank zero ends by a signal as rank zero does, and not before the run is closed:
    srun and torchrun end the others when one has failed."""
    try:
        yield
    except (SystemExit, KeyboardInterrupt):
        if not run.ended_by:
            raise
        if LAUNCH in os.environ:
            close_abandoned(run)
        raise SystemExit(exit_code(run.ended_by)) from None


def close_abandoned(run: Any) -> None:
    """Wait until rank zero has closed the run, and close it where rank zero is gone."""
    end = time.monotonic() + CLOSING
    while time.monotonic() < end:
        stored = run.client.get_run(run.id)
        if stored.info.status != "RUNNING":
            return
        if not is_running(stored.info.status, stored.data.tags):
            run.client.set_terminated(run.id, "FAILED")
            return
        time.sleep(POLL)
