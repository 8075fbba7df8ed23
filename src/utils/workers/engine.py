"""What an engine does: Slurm, Ray or Kubernetes keeps the workers of a job alive.

The contract of a worker, by its exit status:

0      the study or run is done: the worker is not started again
75     it was asked to end (SIGTERM), has saved all it was running, and wants to be started again
2      a mistake in the settings: it is never started again
>128   killed, as for lack of memory: it is started again a few times (`FORGIVEN`)
other  its own failure; when a node is lost, the engine starts the worker on another
"""

from importlib import import_module
from typing import Protocol

from src.utils.config.worker_settings import RemoteWorkers
from src.utils.workers.job import Submitted, WorkerJob

ENGINES = {  # its class
    "slurm": ("src.utils.workers.slurm", "Slurm"),
    "ray": ("src.utils.workers.ray_cluster", "RayCluster"),
    "kubernetes": ("src.utils.workers.kubernetes", "Kubernetes"),
}


class Engine(Protocol):
    """What keeps workers alive. It has no state of its own."""

    # Whether its workers have their code from an image, and addresses and keys from elsewhere
    uses_image: bool

    def check(self, settings: RemoteWorkers) -> None:
        """Check, before anything is written, that the engine is there and would take such a job.

        Raises:
            UserError: it isn't, or would not.
        """

    def render(self, job: WorkerJob) -> str:
        """What would be submitted, for people to read: passwords are masked. Nothing is written."""

    def submit(self, job: WorkerJob) -> Submitted:
        """Submit a job; its folder `job.logs` is there.

        Raises:
            UserError: the engine refuses it.
        """

    def states(self, job: Submitted) -> dict[str, int]:
        """How many workers are in which state, in the engine's own lower-case words: {"running": 3}.

        Returns:
            Nothing if the job has ended.

        Raises:
            UserError: the engine can't be asked.
        """

    def follow(self, job: Submitted) -> str:
        """The command that shows what the workers print: `tail -f …`."""

    def cancel(self, job: Submitted) -> None:
        """End all workers of a job, which save what they are running; none is started again.

        Raises:
            UserError: the engine can't be asked.
        """


def find_engine(name: str) -> Engine:
    """The engine of this name."""
    module, kind = ENGINES[name]
    engine: Engine = getattr(import_module(module), kind)()  # late: its library may be slow
    return engine
