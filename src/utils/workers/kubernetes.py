"""`workers=kubernetes`: the workers of a job are one Indexed Job, by the command `kubectl`.

The workers run the code of their image; what was changed here since it was built does not reach them. The
addresses of the stores and all passwords come from a Secret, and are in no manifest. A pod that is preempted,
drained or evicted is made again, and so is one that has saved all and asks for it (75). 2 is a mistake in the
settings and ends the job. Other failures of a worker are forgiven a few times.
"""

import json
import re
import subprocess
import time
from dataclasses import replace
from typing import Any

from src.utils.config.worker_settings import KubernetesWorkers, RemoteWorkers
from src.utils.errors import UserError, one_line
from src.utils.process import WORKER
from src.utils.workers.job import FORGIVEN, GRACE, Submitted, WorkerJob

import yaml

FOLDER = "/work"  # of the project in the image (Dockerfile)
KEPT = 7 * 24 * 3600  # seconds for which a job that has ended can be looked at
LONGEST_NAME = (
    48  # a pod's is at most 63: Kubernetes adds five letters, a worker's number and five more
)
OF_CONTAINER = {
    "env",
    "envFrom",
    "volumeMounts",
}  # what workers.extra may name besides fields of the pod
SET_HERE = {"containers", "restartPolicy"}  # what it may not
QUEUE = "kueue.x-k8s.io/queue-name"
IMAGE = "docker build -t REGISTRY/PROJECT . && docker push REGISTRY/PROJECT"
SECRET = (
    "create secret generic {} --from-literal=MLFLOW_TRACKING_URI=http://… "
    "--from-literal=OPTUNA_STORAGE=postgresql+psycopg://…"
)


class Kubernetes:
    """The engine Kubernetes."""

    uses_image = True

    def check(self, settings: RemoteWorkers) -> None:
        """Check that the cluster answers and has the Secret.

        Raises:
            UserError: it doesn't, or a setting is missing.
        """
        assert isinstance(settings, KubernetesWorkers)
        _check_settings(settings)
        place = _place(settings.namespace)
        try:
            found = _kubectl("get", "secret", f"{settings.secret}", "--ignore-not-found", *place)
        except UserError as error:
            if "(Forbidden)" not in str(error):  # some may use Secrets, but not see them
                raise
            return
        if not found:
            command = " ".join(["kubectl", SECRET.format(settings.secret), *place])
            raise UserError(f"there is no Secret {settings.secret}: {command}")

    def render(self, job: WorkerJob) -> str:
        """The manifest.

        Raises:
            UserError: a setting is missing, or `workers.extra` is no part of it.
        """
        text: str = yaml.safe_dump(_manifest(job), sort_keys=False, width=110)
        return text

    def submit(self, job: WorkerJob) -> Submitted:
        """Create the Job.

        Raises:
            UserError: Kubernetes refuses it.
        """
        assert isinstance(job.settings, KubernetesWorkers)
        output = "-o=jsonpath={.metadata.namespace} {.metadata.name}"
        arguments = ("create", "-f", "-", output, *_place(job.settings.namespace))
        namespace, name = _kubectl(*arguments, stdin=self.render(job)).split()
        details = {"namespace": namespace, "context": _context()}
        count = job.settings.count
        return Submitted(job.name, "kubernetes", name, count, time.time(), details=details)

    def states(self, job: Submitted) -> dict[str, int]:
        """How many pods are running, are pending, or are suspended by Kueue.

        Raises:
            UserError: the cluster does not answer.
        """
        found = _kubectl("get", "job", job.id, "--ignore-not-found", "-o=json", *_place_of(job))
        return _states(json.loads(found)) if found else {}

    def follow(self, job: Submitted) -> str:
        """The command that shows what the workers print."""
        options = f"--selector=job-name={job.id} --prefix --max-log-requests={job.count}"
        return " ".join(["kubectl logs --follow", options, *_place_of(job)])

    def cancel(self, job: Submitted) -> None:
        """Delete the Job: its pods are asked to save and end.

        Raises:
            UserError: the cluster does not answer.
        """
        _kubectl("delete", "job", job.id, "--ignore-not-found", "--wait=false", *_place_of(job))


def _check_settings(settings: KubernetesWorkers) -> None:
    if settings.image is None:
        raise UserError(f"workers=kubernetes needs workers.image=REGISTRY/PROJECT: {IMAGE}")
    if settings.secret is None:
        raise UserError(
            f"workers=kubernetes needs workers.secret=NAME: kubectl {SECRET.format('NAME')}"
        )


def _manifest(job: WorkerJob) -> dict[str, Any]:
    settings = job.settings
    assert isinstance(settings, KubernetesWorkers)
    _check_settings(settings)
    name = re.sub(r"[^a-z0-9]+", "-", job.name.lower())[:LONGEST_NAME].strip("-")
    labels = {"app.kubernetes.io/managed-by": "jikken"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "generateName": f"{name or 'job'}-",
            "labels": labels | ({QUEUE: settings.queue} if settings.queue else {}),
        },
        "spec": {
            "suspend": settings.queue is not None,  # until Kueue admits it
            "completionMode": "Indexed",
            "completions": settings.count,
            "parallelism": settings.count,
            "backoffLimitPerIndex": FORGIVEN,
            "podReplacementPolicy": "Failed",  # never two pods of one worker at once
            "podFailurePolicy": {"rules": _rules()},
            "ttlSecondsAfterFinished": KEPT,
            "template": {"metadata": {"labels": labels}, "spec": _pod(job, settings)},
        },
    }


def _rules() -> list[dict[str, Any]]:
    """What a failed pod means: the first rule that applies."""

    def exit_code(value: int) -> dict[str, Any]:
        return {"containerName": "worker", "operator": "In", "values": [value]}

    evicted = [{"type": "DisruptionTarget", "status": "True"}]
    return [
        {"action": "FailJob", "onExitCodes": exit_code(2)},
        {"action": "Ignore", "onExitCodes": exit_code(75)},
        {"action": "Ignore", "onPodConditions": evicted},
    ]


def _pod(job: WorkerJob, settings: KubernetesWorkers) -> dict[str, Any]:
    container = {
        "name": "worker",
        "image": settings.image,
        "workingDir": FOLDER,
        "command": replace(job, command=["python", *job.command[1:]]).limited_command,
        "env": [{"name": WORKER, "value": job.name}],
        "envFrom": [{"secretRef": {"name": settings.secret}}],
        "resources": _resources(settings),
        "volumeMounts": [
            {"name": "shm", "mountPath": "/dev/shm"},
            {"name": "logs", "mountPath": f"{FOLDER}/logs"},
        ],
    }
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE,
        "shareProcessNamespace": True,  # the worker is not the first process, which ignores signals
        "containers": [container],
        "volumes": [
            {
                "name": "shm",
                "emptyDir": {"medium": "Memory"},
            },  # torch's loaders need more than 64 MB
            {"name": "logs", "emptyDir": {}},
        ],
    }
    for text in settings.extra:
        _add(text, pod, container)
    return pod


def _resources(settings: KubernetesWorkers) -> dict[str, Any]:
    """Requests equal to limits."""
    values = {
        "cpu": str(settings.cpus) if settings.cpus else None,
        "memory": f"{settings.memory}i" if settings.memory else None,
        "nvidia.com/gpu": str(settings.gpus) if settings.gpus else None,
    }
    limits = {name: value for name, value in values.items() if value}
    return {"limits": limits, "requests": dict(limits)} if limits else {}


def _add(text: str, pod: dict[str, Any], container: dict[str, Any]) -> None:
    """Add one item of `workers.extra`; lists become longer."""
    try:
        fields = yaml.safe_load(text)
    except yaml.YAMLError:
        fields = None
    if not isinstance(fields, dict) or fields.keys() & SET_HERE:
        raise UserError(
            "workers.extra has fields of the pod's spec in YAML, as ['nodeSelector: {gpu: a100}'], and "
            f"can't be {text!r}"
        )
    for name, value in fields.items():
        place = container if name in OF_CONTAINER else pod
        is_list = isinstance(value, list) and isinstance(place.get(name), list)
        place[name] = place[name] + value if is_list else value


def _states(job: dict[str, Any]) -> dict[str, int]:
    count, status = job["spec"]["completions"], job.get("status", {})
    conditions = [one["type"] for one in status.get("conditions", []) if one["status"] == "True"]
    if {"Complete", "Failed"} & {*conditions}:
        return {}
    if job["spec"].get("suspend"):
        return {"suspended": count}
    ready = status.get("ready", 0)
    states = {"running": ready, "pending": status.get("active", count) - ready}
    return {state: number for state, number in states.items() if number}


def _place(namespace: str | None, context: str = "") -> list[str]:
    """Options of kubectl."""
    options = {"--namespace": namespace, "--context": context}
    return [f"{name}={value}" for name, value in options.items() if value]


def _place_of(job: Submitted) -> list[str]:
    return _place(job.details["namespace"], job.details["context"])


def _context() -> str:
    """The cluster that kubectl now talks to; nothing inside a pod, which talks to its own."""
    try:
        return _kubectl("config", "current-context").strip()
    except UserError:
        return ""


def _kubectl(*arguments: str, stdin: str = "") -> str:
    """What kubectl prints."""
    command = ["kubectl", *arguments]
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(f"workers=kubernetes needs kubectl: {error.strerror}") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"kubectl {arguments[0]} failed: {one_line(lines[-1])}")
    return done.stdout
