"""What the tests share: a laboratory, in which they type the commands that a person would type."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any, NamedTuple

import pytest
from filelock import FileLock
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

# A shell that starts the tests in the background has them, and all that they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["scale.fixtures"]

ROOT = Path(__file__).resolve().parents[1]
PROJECT = ROOT / "tests" / "project"
NO_CACHE = shutil.ignore_patterns("__pycache__")
# The experiments of the tests (tests/project): a small project of their own, whatever this one holds.
DATASET = "src/dataset/dataset01/digits.py"
FEATURE = "src/feature/feature01/digit_tensors.py"
MODEL = "src/model/model01/digit_classifier.py"

ENGINE = [
    "src/__init__.py",
    "src/utils",
    "config/utils",
    "template/minimal",
    "scripts",
    "README.md",
    "pyproject.toml",
    "poetry.lock",
    ".gitignore",
]
NOT_INHERITED = (
    "MLFLOW_",
    "OPTUNA_",
    "HYDRA_",
    "GIT_",
    "JIKKEN_",
    "PYTHON",
    "COLUMNS",
    "LINES",
    "FORCE_COLOR",
)

# A training that takes longer to start than to run, and whose every step is recorded.
QUICK = (
    "network=mlp",
    "hidden=32",
    "max_epochs=2",
    "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=1",
)
LONG_NOTE = "why_" * 500
# Files of few tests, each of which takes minutes
SLOW_FILES = ("test_reproducing.py", "test_slurm.py", "test_workers_ray.py")


class Answer(NamedTuple):
    """With the packages that were imported for it, and the CPU time in seconds."""

    text: str
    imported: set[str]
    seconds: float


@dataclass(frozen=True)
class Lab:
    """A copy of the repository with a history and a store of its own."""

    root: Path

    @property
    def environment(self) -> dict[str, str]:
        """What its commands have beside what they inherit; without a GPU, whatever the machine has."""
        return {"PYTHONPATH": str(self.root), "OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": ""}

    def start(
        self, *command: str | Path, cwd: Path | None = None, **environment: str
    ) -> subprocess.Popen[str]:
        """Begin a command, in a session of its own, as a terminal would."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(NOT_INHERITED)}
        return subprocess.Popen(
            command,
            cwd=cwd or self.root,
            env=inherited | self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(
        self, program: str, *overrides: str, cwd: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of the copy to its end, however it ends."""
        process = self.start(
            sys.executable, self.root / program, *overrides, cwd=cwd, **environment
        )
        try:
            out, err = process.communicate(timeout=240)
        finally:
            process.kill()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def done(self, program: str, *overrides: str, **environment: str) -> str:
        """What a program printed, which must succeed."""
        finished = self.run(program, *overrides, **environment)
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return finished.stdout + finished.stderr

    def python(self, code: str, **environment: str) -> tuple[str, str]:
        """What a few lines of Python print, and what they warn of; they must succeed."""
        process = self.start(sys.executable, "-c", dedent(code), **environment)
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, out + err
        return out, err

    def question(self, *command: str | Path) -> "Answer":
        """What a Python command answers, and what the answer cost; it must succeed."""
        process = self.start(sys.executable, "-X", "importtime", *command)
        assert process.stdout and process.stderr
        with process.stdout, process.stderr:
            imports, text = process.stderr.read(), process.stdout.read()
        _, process.returncode, used = os.wait4(process.pid, 0)
        assert process.returncode == 0, imports
        modules = {line.split("|")[-1].strip().split(".")[0] for line in imports.splitlines()}
        return Answer(text, modules, used.ru_utime + used.ru_stime)

    def git(self, *arguments: str | Path) -> str:
        command = [
            "git",
            "-C",
            str(self.root),
            "-c",
            "user.name=Test",
            "-c",
            "user.email=test@example.org",
        ]
        return subprocess.run(
            [*command, *map(str, arguments)], check=True, capture_output=True, text=True
        ).stdout

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.root}/logs/mlruns/mlflow.db")

    def runs(self, experiment: str) -> list[Run]:
        """All runs of an experiment, the newest first."""
        if not (self.root / "logs" / "mlruns" / "mlflow.db").exists():
            return []  # a client would create the tables, beside the program that is about to do so
        found = self.client.get_experiment_by_name(experiment)
        return list(self.client.search_runs([found.experiment_id])) if found else []

    def newest(self, experiment: str = "model/model01") -> Run:
        return self.runs(experiment)[0]

    def history(self, run: Run, metric: str) -> list[tuple[int, float]]:
        """All values of a metric, by step."""
        return sorted(
            (m.step, m.value) for m in self.client.get_metric_history(run.info.run_id, metric)
        )

    def artifacts(self, run: Run) -> Path:
        """Where the artifacts of a run of this copy lie; the store of a copy may not know it yet."""
        return Path(str(self.root), *Path(run.info.artifact_uri).parts[-6:])

    def files(self) -> dict[Path, int]:
        """Every file in the copy with the time when it changed, less what git, Python and SQLite keep."""
        found = (
            path
            for path in self.root.rglob("*")
            if path.is_file()
            and not {".git", "__pycache__"} & {*path.parts}
            and not path.name.endswith(("-wal", "-shm"))
        )
        return {path.relative_to(self.root): path.stat().st_mtime_ns for path in found}

    def copied(self, to: Path) -> "Lab":
        """A copy, made by another process: where this one reads a database by itself and closes it, its
        connections to it lose their locks, and read what is no longer so (sqlite.org/howtocorrupt.html)."""
        subprocess.run(["cp", "-a", self.root, to], check=True)
        return Lab(to)


def until(condition: Callable[[], Any], seconds: float = 120) -> Any:
    """Wait for something; returns it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it never happened")


def free_port() -> int:
    """One that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def copy_experiment(lab: Lab, old: str, new: str) -> None:
    """What the README says: two folders copied, and nothing edited."""
    for side in ("src", "config"):
        shutil.copytree(lab.root / side / old, lab.root / side / new)


def add_experiment(lab: Lab, program: str, settings: str) -> None:
    """Add an experiment whose program lies beside the tests, and commit it."""
    file = lab.root / program
    config = lab.root / "config" / file.relative_to(lab.root / "src").parent
    for folder in (file.parent, config):
        folder.mkdir()
    shutil.copy(Path(__file__).with_name(file.name), file)
    (config / "config.yaml").write_text(settings)
    lab.git("add", ".")
    lab.git("commit", "--quiet", f"--message={file.stem}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slowest files, then those of most tests: at the end no process waits long for another.

    With `--no-loadscope-reorder`, which pyproject.toml sets, pytest-xdist keeps this order.
    """
    sizes = Counter(item.path for item in items)
    items.sort(key=lambda one: (one.path.name not in SLOW_FILES, -sizes[one.path], one.path))


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that the processes of one test session have in common."""
    own = tmp_path_factory.getbasetemp()
    return own if worker_id == "master" else own.parent


def made_once(root: Path, make: Callable[[Lab], None]) -> Lab:
    """A laboratory for all processes of a test session: one makes it, the others wait."""
    lab, ready = Lab(root), root.with_suffix(".ready")
    with FileLock(root.with_suffix(".lock")):
        if not ready.exists():
            make(lab)
            ready.touch()
    return lab


def carry(names: list[str], to: Path) -> None:
    """Copy files and folders of this repository."""
    for name in names:
        source, copy = ROOT / name, to / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, dirs_exist_ok=True, ignore=NO_CACHE)
        else:
            shutil.copy(source, copy)


def commit(lab: Lab) -> None:
    """Make a folder a repository with one commit, and give it the environment of the tests."""
    (lab.root / ".venv").symlink_to(sys.prefix)
    lab.git("init", "--quiet", "--initial-branch=main")
    (lab.root / ".git" / "info" / "exclude").write_text(".venv\n")
    lab.git("add", ".")
    lab.git("commit", "--quiet", "--message=Start")


@pytest.fixture(scope="session")
def clone(shared: Path) -> Lab:
    """Engine and experiments of the tests as one commit; nothing has run yet. To be read only."""
    return made_once(shared / "clone", make_clone)


def make_clone(lab: Lab) -> None:
    """Copy the engine and the experiments of the tests, and commit them."""
    carry(ENGINE, lab.root)
    shutil.copytree(PROJECT, lab.root, dirs_exist_ok=True, ignore=NO_CACHE)
    commit(lab)


@pytest.fixture(scope="session")
def lab(shared: Path, clone: Lab) -> Lab:
    """A copy in which the data became a dataset, a feature and one quick model. To be read only."""

    def make(lab: Lab) -> None:
        clone.copied(lab.root)
        lab.done(DATASET, "source=sample")
        lab.done(FEATURE)
        lab.done(MODEL, *QUICK, f"note={LONG_NOTE}", "tags=[quick,first]")

    return made_once(shared / "lab", make)


@pytest.fixture
def bare(clone: Lab, tmp_path: Path) -> Lab:
    """A fresh clone that the test may change."""
    return clone.copied(tmp_path / "bare")


@pytest.fixture
def fresh(lab: Lab, tmp_path: Path) -> Lab:
    """A copy of the laboratory that the test may change."""
    return lab.copied(tmp_path / "fresh")
