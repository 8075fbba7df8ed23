"""Lightning's cluster environment: who has started the processes of a distributed training.

a person, or a batch script of Slurm    Lightning starts the other processes: LightningEnvironment
srun or torchrun                        they start all of them: LaunchEnvironment
"""

import os
from collections.abc import Mapping
from typing import Any

from src.utils.process import Launch

import torch
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.lsf import LSFEnvironment
from lightning_fabric.plugins.environments.mpi import MPIEnvironment


class LaunchEnvironment(ClusterEnvironment):
    """Processes that srun or torchrun has started.

    Rank zero has set or published `MASTER_ADDR` and `MASTER_PORT` (`src/utils/runs/join.py`).

    Args:
        is_node: whether this process sees no other GPU than its own, so that to Lightning it is a node.
    """

    def __init__(self, launch: Launch, is_node: bool = False) -> None:
        super().__init__()
        self.launch, self.is_node = launch, is_node

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return os.environ["MASTER_ADDR"]

    @property
    def main_port(self) -> int:
        return int(os.environ["MASTER_PORT"])

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self.launch.size

    def set_world_size(self, size: int) -> None:
        """Do nothing, as below: the launch has decided it."""

    def global_rank(self) -> int:
        return self.launch.rank

    def set_global_rank(self, rank: int) -> None:
        """Do nothing."""

    def local_rank(self) -> int:
        return 0 if self.is_node else self.launch.local_rank

    def node_rank(self) -> int:
        return self.launch.rank if self.is_node else self.launch.node

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Compare the setting `trainer` with the launch.

        Raises:
            ValueError: they have other numbers of processes.
        """
        if num_devices * num_nodes != self.launch.size:
            raise ValueError(
                f"trainer.devices={num_devices} trainer.num_nodes={num_nodes} is a training of "
                f"{num_devices * num_nodes} processes, and {self.launch.by} has started {self.launch.size}"
            )


def with_environment(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The Trainer's arguments, with a cluster environment unless they have one."""
    plugins = arguments.get("plugins") or []
    plugins = list(plugins) if isinstance(plugins, list | tuple) else [plugins]
    is_chosen = any(isinstance(plugin, ClusterEnvironment) for plugin in plugins)
    if is_chosen or getattr(arguments.get("strategy"), "cluster_environment", None) is not None:
        return dict(arguments)
    launch = Launch.shared()
    if launch is None:
        return {**arguments, "plugins": [*plugins, _environment_of_one()]}
    is_node = _sees_one_gpu(arguments, launch)
    shape = {"devices": 1, "num_nodes": launch.size} if is_node else {}
    return {**arguments, **shape, "plugins": [*plugins, LaunchEnvironment(launch, is_node)]}


def _environment_of_one() -> ClusterEnvironment:
    """As Lightning chooses, less Slurm: it takes any process with Slurm's variables for one of several."""
    for environment in (LSFEnvironment, MPIEnvironment):
        if environment.detect():
            return environment()
    return LightningEnvironment()


def _sees_one_gpu(arguments: Mapping[str, Any], launch: Launch) -> bool:
    """Whether each process has been given a GPU, as by `srun --gpus-per-task=1`, and sees no other."""
    wanted = arguments.get("accelerator", "auto")
    on_gpu = wanted in ("gpu", "cuda", "auto") and torch.cuda.is_available()
    return on_gpu and launch.local_size > 1 and torch.cuda.device_count() == 1
