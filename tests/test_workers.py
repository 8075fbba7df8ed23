"""`workers=slurm` without a cluster: a stand-in for Slurm's commands runs the job as Slurm would.

What Slurm itself does is tested in test_slurm.py.
"""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from src.utils.config.worker_settings import seconds
from src.utils.errors import UserError
from src.utils.workers.submit import check_stores

import psutil
import pytest
from conftest import FEATURE, Lab, until
from scale.lab import STEPS, ClusterLab, expected
from scale.postgres import create_database
from serving import tracking_server
from sweeps import states

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
COMMANDS = ("sbatch", "squeue", "scancel", "scontrol")
SLURM = ("workers=slurm", "workers.cpus=1")
FIX = "from src.utils.workers.code import fix_code; print(fix_code())"
UNUSED = "from src.utils.workers.code import unused_code; print(len(unused_code()))"
CODE_LATER = """
raise SystemExit("edited after the submission")
"""


@pytest.fixture(scope="module")
def cluster(
    clone: Lab, postgres_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ClusterLab]:
    """A laboratory with the stand-in on its PATH, and stores on servers."""
    folder = tmp_path_factory.mktemp("workers")
    bin_folder, state = folder / "bin", folder / "state"
    bin_folder.mkdir()
    state.mkdir()
    program = bin_folder / "stand_in_slurm.py"
    text = Path(__file__).with_name(program.name).read_text()
    program.write_text(f"#!{sys.executable} -S\n{text}")
    program.chmod(0o755)
    for name in COMMANDS:
        (bin_folder / name).symlink_to(program.name)
    database = create_database(postgres_server, "workers")
    with tracking_server(folder / "mlflow") as address:
        stores = {"MLFLOW_TRACKING_URI": address, "OPTUNA_STORAGE": with_password(database)}
        path = os.pathsep.join([str(bin_folder), os.environ["PATH"]])
        own = {"PATH": path, "STAND_IN": str(state)}
        lab = ClusterLab(clone.copied(folder / "lab").root, stores | own)
        lab.add_steps()
        yield lab
        for task in state.glob("*_*"):  # of a test that failed
            task.unlink()


def with_password(database: str) -> str:
    """The address with a password, which this server does not ask for."""
    return database.replace("postgres@", "postgres:geheim@")


def gate(lab: ClusterLab) -> Path:
    """The file that lets tasks begin."""
    return Path(lab.environment["STAND_IN"]) / "open"


def begin(lab: ClusterLab) -> None:
    gate(lab).touch()


def wait(lab: ClusterLab) -> None:
    gate(lab).unlink(missing_ok=True)


def task(lab: ClusterLab, job: str) -> Path:
    """The file of the only task of a job: it has its process, and is gone when the task has ended."""
    number = json.loads((lab.root / "logs/workers" / job / "job.json").read_text())["id"]
    return Path(lab.environment["STAND_IN"]) / f"{number}_0"


def printed(lab: Lab, job: str) -> str:
    """What the first worker of a job has printed."""
    return (lab.root / "logs/workers" / job / "0.out").read_text()


def tree(folder: Path) -> dict[str, tuple[str, bytes]]:
    """The files of a folder: kind and content, by path."""
    found = {}
    for path in folder.rglob("*"):
        kind = oct(path.lstat().st_mode) if path.is_file() or path.is_symlink() else ""
        if kind and ".git" not in path.relative_to(folder).parts:
            content = os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes()
            found[str(path.relative_to(folder))] = (kind, content)
    return found


def test_search(cluster: ClusterLab) -> None:
    """Workers run a search with the code of its submission, to its end; the terminal shows the board, and no
    password is where others can read it."""
    wait(cluster)
    (cluster.root / "src/model/model95/notes.txt").write_text("untracked\n")
    asked = ["x=interval(0,1)", "steps=2", "seconds=0", "hydra.sweeper.n_trials=4"]
    name = "hydra.sweeper.study_name=shared"
    board = cluster.start_sweep(STEPS, *asked, name, *SLURM, "workers.count=2")
    job = cluster.root / "logs/workers/shared"
    until((job / "job.json").exists)
    program = cluster.root / STEPS
    code = program.read_text()
    program.write_text(CODE_LATER + code)
    try:
        assert cluster.python(UNUSED)[0] == "0\n"
        begin(cluster)
        out, err = board.communicate(timeout=240)
    finally:
        program.write_text(code)
    assert board.returncode == 0, out + err + printed(cluster, "shared")
    until(lambda: cluster.python(UNUSED)[0] == "1\n")
    assert "submitted 2 workers of shared: slurm " in out
    assert "shared: 4 complete" in out
    with cluster.opened("shared") as study:
        assert states(study)["COMPLETE"] == 4
        assert [one["name"] for one in study.user_attrs["workers"]] == ["shared"]
        assert "workers" not in study.user_attrs["question"]
        runs = cluster.trial_runs(study)
    assert {run.data.tags["mlflow.source.git.branch"] for run in runs} == {"main"}
    assert stat.S_IMODE(job.stat().st_mode) == 0o700
    assert stat.S_IMODE((job / "environment").stat().st_mode) == 0o600
    others = [file for file in job.iterdir() if file.name != "environment"]
    assert not [file for file in others if "geheim" in file.read_text()]
    assert "workers" not in (job / "job.sh").read_text().split(STEPS)[1]


def test_run(cluster: ClusterLab) -> None:
    """A single run that is preempted is queued again, and goes on as the same run, and so does one whose
    process is killed; when it is finished, a worker that is started once more does nothing."""
    begin(cluster)
    (cluster.place / "go").unlink(missing_ok=True)
    asked = ("steps=6", "hold=3", "seconds=0", "x=0.1")
    out = cluster.done(STEPS, *asked, *SLURM)
    job = out.split("submitted 1 worker of ")[1].split(":")[0]
    mine = task(cluster, job)
    until(lambda: any(len(steps) == 3 for steps in cluster.taken().values()))
    os.kill(int(mine.read_text()), signal.SIGUSR1)
    until(lambda: printed(cluster, job).count("goes on") == 1)
    (worker,) = psutil.Process(int(mine.read_text())).children()
    worker.kill()
    until(lambda: printed(cluster, job).count("goes on") == 2)
    (cluster.place / "go").touch()
    until(lambda: not mine.exists())
    (run,) = [
        one for one in cluster.runs("model/model95") if one.data.tags.get("workers.job") == job
    ]
    assert run.info.status == "FINISHED"
    assert run.data.metrics["value"] == expected(0.1, 6)
    assert [step for step, _ in cluster.taken()[run.info.run_id]] == [*range(6)]
    assert "restart 2" in printed(cluster, job)


def test_dry_run(cluster: ClusterLab, tmp_path: Path) -> None:
    """`workers.dry_run=true` prints what would be submitted, without passwords, and writes nothing."""
    before = cluster.files()
    extra = """workers.extra=["--account=lab"]"""
    sized = ("workers.gpus=2", "workers.memory=16G", "workers.time=1-02:00:00", extra)
    asked = [*SLURM, *sized, "workers.dry_run=true", "hydra.sweeper.study_name=not begun"]
    lines = [(STEPS, "-m", "x=1,2", *asked), (STEPS, *asked[:-1])]
    (search, run) = cluster.run_lines(lines, tmp_path)
    assert (search[0], run[0]) == (0, 0), search[1] + run[1]
    assert cluster.files() == before
    for option in (
        *("--array=0-0", "--cpus-per-task=1", "--gres=gpu:2", "--mem=16G", "--time=1-02:00:00"),
        *("--signal=B:USR1@60", "--account=lab", "--requeue --open-mode=append"),
    ):
        assert f"#SBATCH {option}\n" in search[1]
        assert f"#SBATCH {option}\n" in run[1]
    assert "OPTUNA_STORAGE=postgresql://postgres:***@127.0.0.1" in search[1]
    assert "geheim" not in search[1]
    assert "steps.py -m x=1,2 " in search[1]
    assert "steps.py &" in run[1]
    assert not [text for _, text in (search, run) if "workers." in text]


def test_refusals(cluster: ClusterLab, tmp_path: Path) -> None:
    """What can't be submitted is refused in one line, before anything is written."""
    before = cluster.files()
    refused = {
        (STEPS, "workers=slrm"): "Available options in 'workers': kubernetes local ray slurm",
        (STEPS, "workers=slurm", "workers.count=0"): "workers.count=0 is refused: it should be gr",
        (STEPS, "workers=slurm", "workers.count=2"): "is for a search (-m): a run has one worker",
        (STEPS, "workers=slurm", "workers.memory=2"): "it should be a number with K, M, G or T",
        (STEPS, "workers=slurm", "workers.time=60"): "should be hours:minutes:seconds, as in 4:0",
        (STEPS, "workers=slurm", "workers.tme=1"): "workers.tme is not a setting: did you mean ti",
        (STEPS, "workers.partition=gpu"): "workers.partition belongs to workers=slurm: type that",
        (STEPS, "-m", "x=1,2", "hydra/launcher=basic", *SLURM): "needs hydra/launcher=fork",
        (FEATURE, "workers=slurm"): "workers= is for models",
    }
    answers = cluster.run_lines([*refused], tmp_path)
    for (code, text), expected_text in zip(answers, refused.values(), strict=True):
        assert code == 2, text
        assert expected_text in text.splitlines()[-1]
    assert cluster.files() == before


def test_refused_by_the_engine(cluster: ClusterLab, tmp_path: Path) -> None:
    """What the engine refuses leaves no study and no job."""
    (tmp_path / "sbatch").write_text(
        "#!/bin/sh\necho 'sbatch: error: no such account' >&2\nexit 1\n"
    )
    (tmp_path / "sbatch").chmod(0o755)
    path = os.pathsep.join([str(tmp_path), cluster.environment["PATH"]])
    asked = ["x=interval(0,1)", "hydra.sweeper.study_name=refused", *SLURM]
    done = cluster.run(STEPS, "-m", *asked, PATH=path)
    assert done.returncode == 2
    assert done.stderr == "error: sbatch failed: no such account\n"
    with pytest.raises(KeyError), cluster.opened("refused"):
        pass
    assert not (cluster.root / "logs/workers/refused").exists()


def test_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores that are files of one machine are refused; the message says what to set."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match=r"not in sqlite:///.*: set MLFLOW_TRACKING_URI=http://…"):
        check_stores(None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example")
    check_stores(None)
    check_stores("postgresql+psycopg://db.example/studies")
    with pytest.raises(UserError, match=r"set OPTUNA_STORAGE=postgresql\+psycopg://…"):
        check_stores("sqlite:////home/me/optuna.db")


@pytest.mark.parametrize(("limit", "expected_seconds"), [("1:30:00", 5400), ("1-00:00:10", 86410)])
def test_time_limits(limit: str, expected_seconds: int) -> None:
    """A time limit has hours, minutes and seconds, and may have days."""
    assert seconds(limit) == expected_seconds


def test_code(bare: Lab, tmp_path: Path) -> None:
    """Workers have the working tree as it is: with what was changed, deleted, added and not committed, with
    links and executable files, submodules and clones inside it, but without what git ignores. It is copied
    once, whoever submits at the same moment, and nothing of it is committed there."""
    root = bare.root
    for path in (root / "library", tmp_path / "origin", root / "src/model/cloned"):
        path.mkdir()
        inner = Lab(path)
        inner.git("init", "--quiet")
        (path / "code.py").write_text("committed\n")
        inner.git("add", ".")
        inner.git("commit", "--quiet", "--message=Start")
    file = "protocol.file.allow=always"
    bare.git("-c", file, "submodule", "--quiet", "add", tmp_path / "origin", "src/model/inner")
    bare.git("commit", "--quiet", "--message=A submodule")
    (root / "src/model/inner/code.py").write_text("changed\n")
    (root / "README.md").unlink()
    (root / "src/übung\nneu.bin").write_bytes(bytes(range(256)) * 100)
    (root / "run.sh").write_text("echo\n")
    (root / "run.sh").chmod(0o755)
    (root / "link").symlink_to("src/model")
    (root / "pyproject.toml").write_text("changed\n")
    bare.git("add", "pyproject.toml")
    status, original = bare.git("status", "--porcelain"), tree(root)
    listed = bare.git("ls-files", "--others", "--ignored", "--exclude-standard", "-z")
    expected_files = {name: one for name, one in original.items() if name not in listed.split("\0")}

    processes = [bare.start(sys.executable, "-c", FIX) for _ in range(3)]
    outputs = [process.communicate(timeout=240) for process in processes]
    assert {process.returncode for process in processes} == {0}, outputs
    (folder,) = {Path(out.strip()) for out, _ in outputs}
    assert folder.parent == root / "logs/workers/code"
    assert tree(folder) == expected_files
    copy = Lab(folder)
    assert copy.git("rev-parse", "HEAD") == bare.git("rev-parse", "HEAD")
    assert {*copy.git("status", "--porcelain").splitlines()} >= {" D README.md", "?? run.sh"}
    assert bare.git("status", "--porcelain") == status
    place = "from src.utils.paths import MAIN_CHECKOUT; print(MAIN_CHECKOUT)"
    assert copy.python(place)[0] == f"{root}\n"

    (root / "run.sh").write_text("echo changed\n")
    assert bare.python(FIX)[0] != f"{folder}\n"
    shutil.rmtree(folder)
    (root / "run.sh").write_text("echo\n")
    assert bare.python(FIX)[0] == f"{folder}\n"
    assert tree(folder) == expected_files


def test_code_in_a_subfolder(clone: Lab, tmp_path: Path) -> None:
    """A project in a subfolder of a repository is copied with the repository, and has its logs and data where
    the project has them."""
    outer, inner = Lab(tmp_path), clone.copied(tmp_path / "project")
    subprocess.run(["rm", "-r", inner.root / ".git"], check=True)
    outer.git("init", "--quiet")
    outer.git("add", "project/src", "project/config", "project/.gitignore")
    outer.git("commit", "--quiet", "--message=Start")
    folder = Path(inner.python(FIX)[0].strip())
    assert folder.name == "project"
    place = "from src.utils.paths import MAIN_CHECKOUT; print(MAIN_CHECKOUT)"
    assert Lab(folder).python(place)[0] == f"{inner.root}\n"


def test_code_without_a_commit(clone: Lab, tmp_path: Path) -> None:
    """Without a commit there is no code to copy."""
    lab = clone.copied(tmp_path / "lab")
    subprocess.run(["rm", "-r", lab.root / ".git"], check=True)
    lab.git("init", "--quiet")
    process = lab.start(sys.executable, "-c", FIX)
    assert "git commit make one" in process.communicate(timeout=60)[1]
