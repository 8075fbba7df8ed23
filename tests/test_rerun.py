"""`lab rerun` and `lab resume`: repeating a run from its id, with a verdict, and resuming one."""

import shutil

from conftest import FEATURE, MODEL, QUICK, Lab
from laboratory import a_laboratory, refused, typed  # noqa: F401  a fixture
from test_lab import history

IDENTICAL = ("weights: bit-identical", "verdict: identical")


def rerun(lab: Lab, *arguments: str) -> str:
    done = typed(lab, "rerun", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_clean_commit(fresh: Lab) -> None:
    """The rerun of a clean commit has identical metrics and weights, and a tag with the id of the run."""
    old = fresh.newest()
    assert old.data.tags["git.dirty"] == "false"
    output = rerun(fresh, old.info.run_id[:8])
    assert all(line in output for line in IDENTICAL)
    assert fresh.newest().data.tags["rerun_of"] == old.info.run_id


def test_a_dirty_tree(fresh: Lab) -> None:
    """Uncommitted changes and untracked files of the run are restored; the working tree is not touched."""
    program = fresh.root / MODEL
    committed = program.read_text()
    changed = committed.replace("nn.ReLU()", "nn.Tanh()") + "\nimport activation  # noqa\n"
    program.write_text(changed)
    (program.parent / "activation.py").write_text("NAME = 'tanh'\n")
    fresh.done(MODEL, *QUICK)
    (program.parent / "activation.py").unlink()
    program.write_text(committed)
    before = fresh.git("status", "--porcelain")
    output = rerun(fresh, "latest")
    assert all(line in output for line in IDENTICAL)
    assert fresh.git("status", "--porcelain") == before
    assert len(fresh.git("worktree", "list").splitlines()) == 1


def test_a_deleted_experiment(fresh: Lab) -> None:
    """A run can be repeated when the folders of its experiment are deleted."""
    run_id = fresh.newest().info.run_id
    shutil.rmtree(fresh.root / "src/model/model01")
    shutil.rmtree(fresh.root / "config/model/model01")
    output = rerun(fresh, run_id)
    assert all(line in output for line in IDENTICAL)


def test_a_trial_of_a_sweep(fresh: Lab) -> None:
    """A trial is repeated alone, with its number of threads, and the result is identical."""
    settings = (*QUICK, "learning_rate=interval(0.001,0.002)", "hydra.sweeper.n_trials=2")
    fresh.done(MODEL, "-m", *settings, "hydra.sweeper.n_jobs=2")
    trial = next(
        run for run in fresh.runs("model/model01") if run.data.tags.get("optuna.trial") == "1"
    )
    output = rerun(fresh, trial.info.run_id)
    assert all(line in output for line in IDENTICAL)


def test_another_setting(fresh: Lab) -> None:
    """Settings can be overridden; the verdict is then different."""
    output = rerun(fresh, fresh.newest().info.run_id, "seed=1")
    assert "verdict: different" in output
    assert fresh.newest().data.params["seed"] == "1"


def test_other_data(fresh: Lab) -> None:
    """--other-data repeats a run with the data of today, and says how they differ."""
    run_id = fresh.newest().info.run_id
    fresh.done(FEATURE, "val_fraction=0.2")
    done = typed(fresh, "rerun", run_id, "--other-data")
    assert "data feature/feature01:" in done.stdout
    assert "verdict: different" in done.stdout
    assert done.returncode == 1


def test_a_study(laboratory: Lab) -> None:
    """A study is not a run: `lab rerun` and `lab resume` name the command for it in one line."""
    study = history(laboratory)["study"].info.run_name
    assert f"lab rerun {study}/best" in refused(laboratory, "rerun", study)
    assert f"lab show {study}" in refused(laboratory, "resume", study)


def test_resume_by_lab(fresh: Lab) -> None:
    """`lab resume` of a finished run is an error, and the run stays as it is."""
    before = fresh.newest()
    done = typed(fresh, "resume", before.info.run_id[:8])
    assert done.returncode == 2, done.stdout + done.stderr
    assert "is finished and stays as it is" in done.stderr
    now = fresh.newest()
    assert now.data.to_dictionary() == before.data.to_dictionary()
    assert (now.info.status, now.info.end_time) == (before.info.status, before.info.end_time)
