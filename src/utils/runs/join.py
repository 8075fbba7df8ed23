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
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from src.utils.errors import UserError
from src.utils.paths import Experiment
from src.utils.process import BUILDING, INPUTS, LAUNCH, SHARED_RUN, Launch
from src.utils.settings import ModelSettings, Settings, TrainingSettings

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict, read_write

SHARED = "launch.shared"  # tag of a run: what the other processes need, as JSON
ENDED = "launch.ended"  # tag of an experiment: the launch whose rank zero has ended without a run
TAG = "launch"
WAIT = 600.0  # seconds that the others wait for the run
CLOSING = 60.0  # seconds that they wait for it to be closed
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
    if not _is_shared(launch, settings):
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


def _is_shared(launch: Launch, settings: Settings) -> bool:
    """Whether the processes of a launch are those of one training, as the settings ask for it."""
    if getattr(settings, "is_group", False) and launch.by == "torchrun":
        refuse_launch("a group (folds=, seeds=)")
    wanted = _processes(settings)
    if launch.by == "srun" and wanted == 1:  # several runs beside each other
        return False
    if wanted is not None and wanted != launch.size:
        raise UserError(
            f"{_shape(settings)} is a training of {wanted} processes, and {launch.by} has started "
            f"{launch.size}: devices times num_nodes should be {launch.size}"
        )
    if getattr(settings, "is_group", False):
        raise UserError("a group (folds=, seeds=) starts its own processes: srun --ntasks=1")
    if getattr(settings, "reuse", False):
        raise UserError(
            f"reuse=true is for runs of one process, and {launch.by} has started several"
        )
    return isinstance(settings, ModelSettings)


def _processes(settings: Settings) -> int | None:
    """The number of processes that the settings ask for; None where the machine decides."""
    if not isinstance(settings, TrainingSettings):
        return None if "TORCHELASTIC_RUN_ID" in os.environ else 1
    devices: Any = settings.trainer.get("devices", 1)
    if isinstance(devices, str):
        number = int(devices) if devices.lstrip("-").isdigit() else len(devices.split(","))
        devices = -1 if devices == "auto" else number
    elif not isinstance(devices, int):
        devices = -1 if devices is None else len(devices)
    return None if devices < 0 else devices * settings.trainer.get("num_nodes", 1)


def _shape(settings: Any) -> str:
    trainer = settings.trainer
    return f"trainer.devices={trainer.get('devices', 1)} trainer.num_nodes={trainer.get('num_nodes', 1)}"


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

    client = open_store()
    client.set_experiment_tag(experiment_id(client, str(experiment)), ENDED, os.environ[LAUNCH])


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
            wait_until_closed(run)
        raise SystemExit(128 + run.ended_by) from None


def wait_until_closed(run: Any, seconds: float = CLOSING) -> bool:
    """Wait until rank zero has closed the run; returns whether it has."""
    end = time.monotonic() + seconds
    while run.client.get_run(run.id).info.status == "RUNNING":
        if time.monotonic() > end:
            return False
        time.sleep(POLL)
    return True
