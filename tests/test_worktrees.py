"""Linked git worktrees: several branches side by side, with code of their own and one store."""

import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

from src.utils.paths import Experiment, find_main_checkout
from src.utils.study.study import check_code

import optuna
import pytest
from conftest import MODEL, QUICK, Lab, free_port, made_once, until
from sweeps import TOY, SweepLab

PLAIN = {"PYTHONPATH": ""}  # nothing names a checkout
DATA = "_data/feature/feature01/manifest.json"


def give_environment(place: Lab, python: Path | str) -> None:
    """The environment that scripts/setup.sh makes in a worktree, less Poetry's part."""
    subprocess.run([python, "-I", place.root / "scripts/share.py"], check=True)
    (packages,) = place.root.glob(".venv/lib/python*/site-packages")
    (packages / "project.pth").write_text(f"{place.root}\n")


@pytest.fixture(scope="session", name="main")
def a_main_checkout(shared: Path, lab: Lab) -> SweepLab:
    """The laboratory with a toy. Its worktree `idea` lies beside it."""

    def make(place: Lab) -> None:
        lab.copied(place.root)
        SweepLab(place.root).add_toy()
        place.git("add", ".")
        place.git("commit", "--quiet", "--message=Toy")
        (place.root / ".venv").unlink()
        give_environment(place, sys.executable)
        idea = place.root.with_name("idea")
        place.git("worktree", "add", "--quiet", "-b", "idea", idea)
        (place.root / ".git/info/exclude").write_text(".venv\n")
        give_environment(Lab(idea), place.root / ".venv/bin/python")

    return SweepLab(made_once(shared / "main-checkout", make).root)


@pytest.fixture(name="idea")
def a_worktree(main: SweepLab) -> SweepLab:
    return SweepLab(main.root.with_name("idea"))


def start(place: Lab, program: str, *arguments: str) -> subprocess.Popen[str]:
    """Run a program with the environment of its own checkout."""
    return place.start(place.root / ".venv/bin/python", program, *arguments, **PLAIN)


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, out + err
    return out + err


def lab_of(place: Lab, *arguments: str, cwd: Path | None = None, code: int = 0) -> str:
    """What `lab` of a checkout prints."""
    command = (place.root / ".venv/bin/lab", *arguments)
    return ended(place.start(*command, cwd=cwd, COLUMNS="120", **PLAIN), code)


def test_two_at_once(main: SweepLab, idea: SweepLab) -> None:
    """Runs of two worktrees at once are all in the main checkout's store, each with its own code and patch.
    The data of the main checkout are linked. Both list the same runs, with branch and commit."""
    programs = {place: place.root / MODEL for place in (main, idea)}
    committed = programs[main].read_text()
    for place, program in programs.items():
        program.write_text(f"{committed}# {place.root.name}\n")
    running = [start(place, MODEL, *QUICK, f"note={place.root.name}") for place in programs]
    printed = [ended(process) for process in running]
    for program in programs.values():
        program.write_text(committed)
    assert "linked from" not in printed[0]
    assert f"feature/feature01: linked from {main.root}" in printed[1]
    assert (idea.root / DATA).samefile(main.root / DATA)
    assert not list(idea.root.rglob("*.db"))
    runs = {run.data.tags["mlflow.note.content"]: run for run in main.runs("model/model01")[:2]}
    for name, branch in (("main-checkout", "main"), ("idea", "idea")):
        run, artifacts = runs[name], main.artifacts(runs[name])
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.source.git.branch"] == branch
        assert f"# {name}\n" in (artifacts / "source" / Path(MODEL).name).read_text()
        assert f"+# {name}\n" in (artifacts / "provenance/changes.patch").read_text()
        assert list((main.root / "logs/logging_").rglob("*.log"))
    listed = lab_of(idea, "runs")
    assert listed == lab_of(main, "runs")
    commit = idea.git("rev-parse", "--short=7", "HEAD").strip()
    assert f"idea@{commit}" in listed
    assert f"main@{commit}" in listed
    branches = {run["branch"] for run in json.loads(lab_of(idea, "runs", "--json"))}
    assert branches == {"main", "idea"}
    assert f"a worktree of {main.root}, whose store it shares" in lab_of(idea, "doctor")


def test_changed_data_are_the_branch_s_own(main: SweepLab, idea: SweepLab) -> None:
    """Where the branch makes its data in another way, they are built again, and the main checkout's stay."""
    before = (main.root / DATA).read_text()
    config = idea.root / "config/feature/feature01/config.yaml"
    committed = config.read_text()
    config.write_text(committed.replace("val_fraction: 0.1", "val_fraction: 0.2"))
    assert config.read_text() != committed
    printed = ended(start(idea, MODEL, *QUICK, "max_epochs=1"))
    config.write_text(committed)
    assert "feature/feature01 is out of date" in printed
    assert (idea.root / DATA).read_text() != before
    assert (main.root / DATA).read_text() == before


def test_code_of_another_checkout(main: SweepLab, idea: SweepLab) -> None:
    """The main checkout's environment is refused in a worktree, and the other way round, in one line."""
    for place, other in ((main, idea), (idea, main)):
        before = {one: one.git("status", "--porcelain") for one in (main, idea)}
        line = ended(start(place, str(other.root / MODEL), *QUICK), code=2)
        assert f"belongs to {other.root}, but " in line
        assert f"imports the code of {place.root}: type {other.root}/.venv/bin/python" in line
        line = lab_of(place, "new", "model77", cwd=other.root / "src", code=2)
        assert line.startswith(
            f"error: this is the lab of {place.root}, and you are in {other.root}"
        )
        assert line.count("\n") == 1
        assert before == {one: one.git("status", "--porcelain") for one in (main, idea)}


def test_a_study_of_two_worktrees(main: SweepLab, idea: SweepLab) -> None:
    """A search is joined from a worktree with the same code, and refused with other code."""
    search = ("-m", "x=interval(0,1)", "hydra.sweeper.study_name=shared", "hydra.sweeper.n_jobs=1")
    ended(start(main, TOY, *search, "hydra.sweeper.n_trials=1"))
    ended(start(idea, TOY, *search, "hydra.sweeper.n_trials=2"))
    assert [trial.state.name for trial in main.study("shared").trials] == ["COMPLETE"] * 2
    with (idea.root / TOY).open("a") as file:
        file.write("# edited\n")
    line = ended(start(idea, TOY, *search, "hydra.sweeper.n_trials=3"), code=2)
    assert "src/model/model90 is not what it was when shared began" in line
    assert "take another hydra.sweeper.study_name" in line
    idea.git("checkout", "--quiet", TOY)


def test_a_study_that_is_resumed_with_other_code(caplog: pytest.LogCaptureFixture) -> None:
    """`resume_study` goes on with other code, and warns; a study of an earlier version goes on without."""
    study, toy = optuna.create_study(study_name="shared"), Experiment("model", "model90")
    check_code(study, toy, "first", is_resumed=False)
    check_code(study, toy, "first", is_resumed=True)
    assert caplog.text == ""
    check_code(study, toy, "edited", is_resumed=True)
    assert "may not compare" in caplog.text
    earlier = optuna.create_study(study_name="earlier")
    earlier.add_trial(optuna.create_trial(value=1.0))
    check_code(earlier, toy, "edited", is_resumed=False)
    assert "code" not in earlier.user_attrs


def test_pages_of_a_worktree(main: SweepLab, idea: SweepLab) -> None:
    """mlflow_ui.sh and optuna_dashboard.sh of a worktree serve the main checkout's store."""
    database = main.root / "logs/optuna/optuna.db"
    database.parent.mkdir(exist_ok=True)
    optuna.create_study(study_name="shown", storage=f"sqlite:///{database}", load_if_exists=True)
    served = {
        "mlflow_ui": ("api/2.0/mlflow/experiments/search?max_results=9", "model/model01"),
        "optuna_dashboard": ("api/studies", "shown"),
    }
    for script, (question, answer) in served.items():
        server = idea.start("bash", f"scripts/{script}.sh", str(free_port()), **PLAIN)
        try:
            assert server.stdout is not None
            line = until(lambda out=server.stdout: re.search(r"http://[^/]+/", out.readline()))
            with urlopen(line[0] + question) as page:
                assert answer in page.read().decode()
        finally:
            server.terminate()
            server.communicate(timeout=60)


def test_which_folders_share(bare: Lab, tmp_path: Path) -> None:
    """A linked worktree belongs to its main checkout; a copy of it, one of a bare repository, and one whose
    main checkout is gone stand alone."""
    linked = tmp_path / "linked"
    bare.git("worktree", "add", "--quiet", linked)
    assert find_main_checkout(bare.root) == bare.root
    assert find_main_checkout(linked) == bare.root
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", linked, copy], check=True)
    assert find_main_checkout(copy) == copy
    assert find_main_checkout(linked.rename(tmp_path / "moved")) == bare.root
    bare.git("clone", "--quiet", "--bare", bare.root, tmp_path / "bare.git")
    alone = tmp_path / "alone"
    Lab(tmp_path / "bare.git").git("worktree", "add", "--quiet", alone, "main")
    assert find_main_checkout(alone) == alone
    bare.root.rename(tmp_path / "elsewhere")
    assert find_main_checkout(tmp_path / "moved") == tmp_path / "moved"
