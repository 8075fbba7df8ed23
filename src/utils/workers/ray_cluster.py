"""Workers on Ray: each is a detached actor (`src/utils/workers/ray_worker.py`), which outlives this process.

Ray starts an actor again when its node is lost, and when its worker has saved all and asks for it. All nodes
need the project and its packages at the same path: a shared file system. Each job has a namespace of its own.
"""

import os
import shlex
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from src.utils.config.worker_settings import RemoteWorkers
from src.utils.errors import UserError, first_line
from src.utils.paths import display_path
from src.utils.process import CORES
from src.utils.workers.job import FORGIVEN, GRACE, Submitted, WorkerJob, masked

ANSWER = 3  # seconds in which a cluster, and an actor that runs, answers
START = 10  # seconds in which an actor starts, and answers for certain
CONNECTION = threading.Lock()  # a process has one to Ray, and not to two clusters
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class RayCluster:
    """The engine `workers=ray`."""

    uses_image = False

    def check(self, settings: RemoteWorkers) -> None:
        """Check that a cluster answers.

        Raises:
            UserError: Ray isn't installed, no cluster answers, or `workers.extra` names no resources.
        """
        _options(settings)
        with _connected(_address(settings), "check"):
            pass

    def render(self, job: WorkerJob) -> str:
        """What the actors are made of, and the environment without passwords."""
        options = " ".join(f"{name}={value}" for name, value in _options(job.settings).items())
        lines = {
            "cluster": _address(job.settings),
            "actors": f"{job.settings.count}, each with {options}",
            "folder": job.folder,
            "command": shlex.join(job.limited_command),
            "output": job.logs / "*.out",
            "environment": "",
        }
        said = [f"{name:<11} {value}".rstrip() for name, value in lines.items()]
        values = [f"    {name}={value}" for name, value in masked(_environment(job)).items()]
        return "\n".join([*said, *values])

    def submit(self, job: WorkerJob) -> Submitted:
        """Make the actors.

        Raises:
            UserError: no cluster answers, or its nodes can't run the command.
        """
        name, address = f"{job.name}-{uuid.uuid4().hex[:8]}", _address(job.settings)
        with _connected(address, name) as ray:
            actors = [_make_actor(ray, job, number) for number in range(job.settings.count)]
            try:
                _check_started(ray, actors)
            except UserError:
                for actor in actors:
                    ray.kill(actor)
                raise
            if not address.startswith("ray://"):  # «auto» may be another cluster tomorrow
                address = ray.get_runtime_context().gcs_address
        details = {"address": address}
        return Submitted(job.name, "ray", name, len(actors), time.time(), details=details)

    def states(self, job: Submitted) -> dict[str, int]:
        """How many actors run, and how many wait for a place.

        Raises:
            UserError: the cluster does not answer.
        """
        with _connected(job.details["address"], job.id) as ray:
            running, pending = _call(ray, "ready", ANSWER)
        states = {"running": len(running), "pending": len(pending)}
        return {state: count for state, count in states.items() if count}

    def follow(self, job: Submitted) -> str:
        """The command that shows what the workers print."""
        return f"tail -F {shlex.quote(str(display_path(job.logs)))}/*.out"

    def cancel(self, job: Submitted) -> None:
        """Have the workers save what they are running, and end; no actor is started again.

        Raises:
            UserError: the cluster does not answer.
        """
        with _connected(job.details["address"], job.id) as ray:
            _, pending = _call(ray, "cancel", START)
            for actor in pending:
                ray.kill(actor)


def _address(settings: Any) -> str:
    """The address of the cluster; `auto` is the one to which this machine belongs."""
    return str(settings.address or os.environ.get("RAY_ADDRESS") or "auto")


def _options(settings: RemoteWorkers) -> dict[str, Any]:
    """What an actor asks of its node."""
    options: dict[str, Any] = {"num_cpus": settings.cpus or 1, "num_gpus": settings.gpus}
    if settings.memory:
        options["memory"] = int(settings.memory[:-1]) * UNITS[settings.memory[-1]]
    if settings.extra:
        options["resources"] = dict(_resource(one) for one in settings.extra)
    return options


def _resource(text: str) -> tuple[str, float]:
    name, _, amount = text.partition("=")
    try:
        return name, float(amount)
    except ValueError:
        raise UserError(
            f"workers.extra names resources of the Ray cluster, as ['a100=1'], and can't be {text!r}"
        ) from None


@contextmanager
def _connected(address: str, namespace: str) -> Iterator[Any]:
    """Ray, connected to a cluster."""
    try:
        import ray
    except ImportError:
        raise UserError(
            "workers=ray needs the package ray, of the version that the cluster has: pip install ray==VERSION"
        ) from None
    _check_listening(address)
    with CONNECTION:
        try:
            with _signals_kept():
                ray.init(address, namespace=namespace, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"no Ray cluster at {address}: {first_line(error)}") from None
        try:
            yield ray
        finally:
            ray.shutdown()


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray sets a handler of SIGTERM, from the main thread only."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _check_listening(address: str) -> None:
    """Ray itself would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():  # auto
        return
    try:
        socket.create_connection((host, int(port)), ANSWER).close()
    except OSError as error:
        raise UserError(
            f"no Ray cluster answers at {address} ({error.strerror or error}): set workers.address=HOST:PORT"
        ) from None


def _make_actor(ray: Any, job: WorkerJob, number: int) -> Any:
    from src.utils.workers import ray_worker

    ray.cloudpickle.register_pickle_by_value(ray_worker)  # the nodes' Python may not find it
    options = _options(job.settings) | {
        "name": f"worker{number}",
        "lifetime": "detached",
        "max_restarts": -1,
        "scheduling_strategy": "SPREAD",
    }
    log = str(job.logs / f"{number}.out")
    # Ray shows names and options to all, but not these arguments
    arguments = (job.limited_command, str(job.folder), _environment(job), log, GRACE, FORGIVEN)
    return ray.remote(ray_worker.RayWorker).options(**options).remote(*arguments)


def _environment(job: WorkerJob) -> dict[str, str]:
    """What workers need. Ray keeps none from using all cores, and GPUs where it has asked for none."""
    own = {CORES: str(job.settings.cpus or 1)}
    return job.environment | own | ({} if job.settings.gpus else {"CUDA_VISIBLE_DEVICES": ""})


def _check_started(ray: Any, actors: list[Any]) -> None:
    """Wait a little for the first actor; where there is no place yet, they may take their time."""
    for call in ray.wait([actor.ready.remote() for actor in actors], timeout=START)[0]:
        try:
            ray.get(call)
        except ray.exceptions.RayActorError as error:
            *_, reason = str(error).splitlines()
            if reason.partition(":")[0] in ("FileNotFoundError", "PermissionError"):
                raise UserError(
                    f"a node of the Ray cluster can't start the worker ({reason}): all nodes need the "
                    "project and its packages at the same path"
                ) from None


def _call(ray: Any, method: str, patience: float) -> tuple[list[Any], list[Any]]:
    """Call a method of all actors of the job.

    Returns:
        Those that have done it, and those that wait for a place. What has ended is in neither.
    """
    calls: dict[Any, Any] = {}
    for name in ray.util.list_named_actors():
        with suppress(ValueError):  # it has ended
            actor = ray.get_actor(name)
            calls[getattr(actor, method).remote()] = actor
    if not calls:
        return [], []
    answers, waiting = ray.wait(list(calls), num_returns=len(calls), timeout=patience)
    done = []
    for call in answers:
        try:
            ray.get(call)
            done.append(call)
        except ray.exceptions.ActorUnavailableError:
            waiting.append(call)  # it is being started again
        except ray.exceptions.RayActorError:
            pass
    return [calls[call] for call in done], [calls[call] for call in waiting]
