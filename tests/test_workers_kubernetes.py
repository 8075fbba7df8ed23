"""`workers=kubernetes`: the manifest, checked against Kubernetes' schema, and what is asked of kubectl.

No cluster runs here: kubectl is a script that notes its arguments and answers as it is told.
scale/kubernetes_job.json is the schema of a Job of Kubernetes 1.37, from the package kubernetes-validate,
without descriptions; a field that it does not have is refused.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from src.utils.config.worker_settings import KubernetesWorkers
from src.utils.errors import UserError
from src.utils.workers.job import Submitted, WorkerJob
from src.utils.workers.kubernetes import Kubernetes

import pytest
import yaml
from conftest import ROOT
from jsonschema import Draft202012Validator

SCHEMA = json.loads((ROOT / "tests/scale/kubernetes_job.json").read_text())
DEFAULTS = yaml.safe_load((ROOT / "config/utils/workers/kubernetes.yaml").read_text())
FEWEST = DEFAULTS | {"image": "lab/digits", "secret": "stores"}
ALL = FEWEST | {"count": 4, "cpus": 8, "gpus": 1, "memory": "16G", "time": "4:00:00"}
ALL["queue"] = "research"
ALL["extra"] = [
    "nodeSelector: {gpu: a100}",
    "{volumes: [{name: data, persistentVolumeClaim: {claimName: data}}],"
    " volumeMounts: [{name: data, mountPath: /work/_data}]}",
]
KUBECTL = """\
#!/bin/sh
echo "$*" >> calls
[ "$1" = create ] && cat > manifest
[ ! -e "$1.error" ] || { cat "$1.error" >&2; exit 1; }
case "$1" in
config) echo lab-cluster ;;
create) printf 'research digits-x7k2p' ;;
get) cat "$2" 2> /dev/null ;;
esac
exit 0
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a stand-in for kubectl, where it keeps what it is told and notes what it is asked."""
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(KUBECTL)
    kubectl.chmod(0o755)
    (tmp_path / "secret").write_text("secret/stores")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def job(settings: dict[str, Any]) -> WorkerJob:
    command = [sys.executable, "src/model/model01/digits.py", "-m", "lr=tag(log,interval(1e-4,1))"]
    environment = {"OPTUNA_STORAGE": "postgresql://me:hush@db/studies", "AWS_KEY": "hush"}
    workers = KubernetesWorkers(**settings)
    return WorkerJob("Digits, with_all", command, Path("/code"), environment, workers)


def rendered(settings: dict[str, Any]) -> tuple[str, Any]:
    """The manifest of a job as text, and as it is read again."""
    text = Kubernetes().render(job(settings))
    return text, yaml.safe_load(text)


@pytest.mark.parametrize("settings", [FEWEST, ALL])
def test_manifest(settings: dict[str, Any]) -> None:
    """The manifest is a Job of Kubernetes' schema, and holds no password."""
    text, manifest = rendered(settings)
    validator = Draft202012Validator(SCHEMA)
    validator.validate(manifest)
    assert "hush" not in text
    manifest["spec"]["podFailurePolicy"]["rules"][0]["nonsense"] = 1
    assert not validator.is_valid(manifest)


def test_what_is_asked_for() -> None:
    """Each setting is where Kubernetes looks for it; what `extra` names is added."""
    _, manifest = rendered(ALL)
    spec = manifest["spec"]
    pod = spec["template"]["spec"]
    (worker,) = pod["containers"]
    assert manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
    assert (spec["completions"], spec["parallelism"], spec["suspend"]) == (4, 4, True)
    assert worker["resources"]["limits"] == {"cpu": "8", "memory": "16Gi", "nvidia.com/gpu": "1"}
    assert worker["command"][-6:-1] == [
        "--kill-after=120",
        "14400",
        "python",
        *job(ALL).command[1:3],
    ]
    assert worker["envFrom"] == [{"secretRef": {"name": "stores"}}]
    assert worker["env"] == [{"name": "JIKKEN_WORKER", "value": "Digits, with_all"}]
    assert [one["name"] for one in worker["volumeMounts"]] == ["shm", "logs", "data"]
    assert [one["name"] for one in pod["volumes"]] == ["shm", "logs", "data"]
    assert pod["nodeSelector"] == {"gpu": "a100"}
    _, manifest = rendered(FEWEST)
    assert not manifest["spec"]["suspend"]
    assert manifest["spec"]["template"]["spec"]["containers"][0]["command"][0] == "python"


def test_endings() -> None:
    """2 ends the job; 75 and evictions are not counted as failures."""
    _, manifest = rendered(FEWEST)
    rules = manifest["spec"]["podFailurePolicy"]["rules"]
    codes = {one["action"]: one["onExitCodes"]["values"] for one in rules if "onExitCodes" in one}
    assert codes == {"FailJob": [2], "Ignore": [75]}
    (eviction,) = [one for one in rules if "onPodConditions" in one]
    assert eviction["action"] == "Ignore"
    assert eviction["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]


def test_submission(place: Path) -> None:
    """A job is created from the manifest, and asked for and deleted in its own namespace and cluster."""
    engine = Kubernetes()
    engine.check(KubernetesWorkers(**ALL))
    submitted = engine.submit(job(ALL))
    assert (place / "manifest").read_text() == rendered(ALL)[0]
    assert Submitted.from_dict(json.loads(json.dumps(submitted.to_dict()))) == submitted
    assert (submitted.id, submitted.count) == ("digits-x7k2p", 4)

    assert engine.states(submitted) == {}  # there is none any more
    spec = {"completions": 4}
    for state, status in (
        ({"pending": 4}, {}),
        ({"running": 3, "pending": 1}, {"active": 4, "ready": 3}),
        ({}, {"conditions": [{"type": "Failed", "status": "True"}]}),
    ):
        (place / "job").write_text(json.dumps({"spec": spec, "status": status}))
        assert engine.states(submitted) == state
    (place / "job").write_text(json.dumps({"spec": spec | {"suspend": True}}))
    assert engine.states(submitted) == {"suspended": 4}

    engine.cancel(submitted)
    where = "--namespace=research --context=lab-cluster"
    last = (place / "calls").read_text().splitlines()[-1]
    assert last == f"delete job digits-x7k2p --ignore-not-found --wait=false {where}"
    assert "--selector=job-name=digits-x7k2p" in engine.follow(submitted)


def test_refusals(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is said in one line, with the command that makes it."""

    def refusal(**settings: Any) -> str:
        with pytest.raises(UserError) as refused:
            Kubernetes().check(KubernetesWorkers(**FEWEST | settings))
            Kubernetes().submit(job(FEWEST | settings))
        return str(refused.value)

    assert "docker build" in refusal(image=None)
    assert "kubectl create secret generic NAME" in refusal(secret=None)
    assert "can't be 'containers: []'" in refusal(extra=["containers: []"])
    assert "can't be 'gpu'" in refusal(extra=["gpu"])
    (place / "create.error").write_text('Error from server (NotFound): namespaces "a" not found\n')
    assert refusal() == (
        'kubectl create failed: Error from server (NotFound): namespaces "a" not found'
    )
    (place / "secret").unlink()
    assert "there is no Secret stores: kubectl create secret generic stores" in refusal()
    (place / "get.error").write_text("The connection to the server was refused\n")
    assert refusal() == "kubectl get failed: The connection to the server was refused"
    (place / "get.error").write_text("Error from server (Forbidden): secrets are not to be seen\n")
    assert refusal().startswith("kubectl create failed")
    monkeypatch.setenv("PATH", str(place / "nothing"))
    assert refusal() == "workers=kubernetes needs kubectl: No such file or directory"
