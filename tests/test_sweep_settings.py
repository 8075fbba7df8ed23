"""The settings of a sweep: which way it goes, what a study keeps of them, and what is refused."""

from pathlib import Path
from textwrap import dedent

from src.utils.store.record import own_note

import pytest
from conftest import DATASET, Lab
from sweeps import TOY, SweepLab, create_fresh_toys, states  # noqa: F401  a fixture

ONE = "hydra.sweeper.n_jobs=1"
OTHER = """
from src.utils.experiment import experiment
from src.utils.run import Run
from src.utils.settings import TrainingSettings
"""
REPORTS = (
    OTHER
    + """
from src.utils.study.trial import Pruned

class Config(TrainingSettings):
    x: float

@experiment
def main(cfg: Config, run: Run):
    trial = run.trial.open()
    trial.report(cfg.x, 1)
    if trial.should_prune():
        raise Pruned
    return cfg.x

if __name__ == "__main__":
    main()
"""
)
TRAINS = (
    OTHER
    + """
from src.utils.training import tracked_trainer

class Config(TrainingSettings):
    x: float

@experiment
def main(cfg: Config, run: Run):
    tracked_trainer(run, cfg, monitor="val_loss", mode="min")
    return cfg.x

if __name__ == "__main__":
    main()
"""
)


@pytest.fixture(scope="module")
def toys(clone: Lab, tmp_path_factory: pytest.TempPathFactory) -> SweepLab:
    """A laboratory with toys, shared by the tests of this file."""
    lab = SweepLab(clone.copied(tmp_path_factory.mktemp("settings") / "lab").root)
    lab.add_toy()
    lab.add_toy("model91", "monitor: val_acc\nmode: max\n")
    for name, code in {"model92": REPORTS, "model93": TRAINS}.items():
        program = lab.root / lab.add_toy(name)
        program.write_text(dedent(code))
        (lab.root / "config/model" / name / "config.yaml").write_text(
            "defaults: [/training, _self_]\nx: 0.5\n"
        )
    return lab


def toy(number: int) -> str:
    return f"src/model/model{number}/toy.py"


S, SEARCH = "hydra.sweeper", "x=interval(0,1)"
REFUSED = {
    (toy(91), SEARCH, f"{S}.direction=minimize"): "contradicts mode=max",
    (toy(91), SEARCH, "hydra/sweeper=optuna"): "direction=minimize contradicts mode=max",
    (toy(91), SEARCH, "mode=min", f"{S}.direction=maximize"): "contradicts mode=min",
    (toy(90), SEARCH, f"{S}.direction=up"): "it is minimize or maximize",
    (DATASET, "seed=1,2"): "run it without -m",
    (toy(90), "max_epochs=interval(8,16)"): "whole numbers are max_epochs=int(interval(8,16))",
    (toy(90), "y=glob(*)"): "y=glob(*): a search needs the values themselves",
    (toy(90), SEARCH, "hydra/sweeper/pruner=threshold"): "pruner can't be made: Either",
    (toy(90), SEARCH, "hydra/sweeper/sampler=motpe"): "'motpe' sampler was removed",
    (toy(90), SEARCH, f"+{S}.sampler.foo=1"): "unexpected keyword argument 'foo'",
    (toy(90), SEARCH, f"{S}.n_trials=0"): "n_trials=0 is refused",
    (toy(90), SEARCH, f"{S}.n_jobs=-1"): "n_jobs=-1 is refused",
    (toy(90), SEARCH, f"{S}.max_failure_rate=2"): "it should be less than or equal to 1",
    (toy(90), SEARCH, f"{S}.custom_search_space=os.system"): "os.system can't be used",
    (toy(90), SEARCH, "hydra.sweep.dir="): "hydra.sweep.dir is empty",
    (toy(90), SEARCH, "hydra.sweep.dir=/proc/nope"): "/proc/nope can't be written",
    (toy(90), SEARCH, f"{S}.storage='sqlite://'"): "lies in the memory",
    (toy(90), "resume_study=latest"): "no study of model/model90 to resume yet",
}


def test_refused(toys: SweepLab, tmp_path: Path) -> None:
    """What makes no sense is refused in one line that names it, before anything is written."""
    lab = SweepLab(toys.copied(tmp_path / "lab").root)
    before = lab.files()
    lines = [[program, "-m", *arguments] for program, *arguments in REFUSED]
    ends = lab.run_lines(lines, tmp_path)
    wrong = [
        (line, code, text)
        for (line, reason), (code, text) in zip(REFUSED.items(), ends, strict=True)
        if code != 2 or reason not in text or text.count("\n") != 1
    ]
    assert wrong == []
    assert lab.files() == before


def test_direction(toys: SweepLab) -> None:
    """A search goes the way in which the monitored metric is good; one whose program says another way ends
    with the first trial that finds out, and says so."""
    toys.sweep(toy(91), SEARCH, f"{S}.n_trials=1", ONE)
    assert toys.study().direction.name == "MAXIMIZE"
    said = toys.sweep(toy(93), SEARCH, f"{S}.direction=maximize", ONE, code=2)
    assert "error: hydra.sweeper.direction=maximize contradicts mode=min" in said
    assert states(toys.study()) == {"FAIL": 1}
    assert toys.study_run(toys.study()).info.status == "FAILED"


def test_grid_is_not_pruned(toys: SweepLab) -> None:
    """«Every combination once» means to its end, unless a pruner was chosen."""
    seeds = ("x=0,1,2,3,4,5,6", ONE)
    toys.sweep(toy(92), *seeds)
    assert states(toys.study()) == {"COMPLETE": 7}
    toys.sweep(toy(92), *seeds, "hydra/sweeper/pruner=median")
    assert states(toys.study())["PRUNED"] > 0


def test_grid_starts_at_once(toys: SweepLab) -> None:
    """The points of a grid are counted off, and not queued."""
    numbers = ",".join(map(str, range(1, 78)))
    many = (f"seed={numbers}", f"max_epochs={numbers}", "end=raise")
    toys.sweep(TOY, *many, f"{S}.max_retries=0", f"{S}.max_failure_rate=0", ONE, code=2)
    assert states(toys.study()) == {"FAIL": 1}


def test_study_keeps_settings(toys: SweepLab) -> None:
    """`resume_study=NAME` alone keeps all overrides of hydra.*, and no point is drawn a second time."""
    settings = (
        f"{S}.direction=maximize",
        "hydra/sweeper/sampler=random",
        f"{S}.sampler.seed=1",
        f"{S}.custom_search_space=extend",
        "hydra.sweep.subdir='s_${hydra.job.num}'",
    )
    toys.sweep(TOY, SEARCH, *settings, f"{S}.study_name=kept", f"{S}.n_trials=4", ONE)
    toys.sweep(TOY, "resume_study=kept", f"{S}.n_trials=8", ONE)
    study = toys.study("kept")
    assert (states(study), study.direction.name) == ({"COMPLETE": 8}, "MAXIMIZE")
    assert len({trial.params["x"] for trial in study.trials}) == 8
    assert all(("y" in trial.params) == (trial.params["x"] < 0.5) for trial in study.trials)
    folders = {Path(run.data.tags["hydra.output"]).name for run in toys.trial_runs(study)}
    assert folders == {f"s_{number}" for number in range(8)}
    said = toys.sweep(TOY, "resume_study=kept", "y=low,high", code=2)
    assert "kept has y=(not set), not Categorical" in said


def test_seed(toys: SweepLab, tmp_path: Path) -> None:
    """`seed=` reaches the sampler, so that trials one after the other are the same again: a study of its own
    each time, even in the same folder."""
    same = (SEARCH, "seed=5", f"{S}.n_trials=3", ONE, f"hydra.sweep.dir={tmp_path}/here")
    odd = ("hydra.job.name=foo", "note='${seed}'")
    toys.sweep(TOY, *same)
    toys.sweep(TOY, *same, *odd)
    first, second = (toys.study(name) for name in toys.studies()[-2:])
    assert [one.params for one in first.trials] == [one.params for one in second.trials]
    assert states(first) == states(second) == {"COMPLETE": 3}
    assert own_note(toys.study_run(second).data.tags["mlflow.note.content"]) == "5"
    found = toys.client.get_experiment(toys.study_run(second).info.experiment_id)
    assert found.name == "model/model90"


def test_without_ranges(toys: SweepLab) -> None:
    """`custom_search_space`, by its dotted path, or `params` may be all that there is, as for the official
    sweeper."""
    program = toys.root / toys.add_toy("model94")
    suggests = 'def more(cfg, trial):\n    trial.suggest_float("x", 0, 1)\n'
    (program.parent / "space.py").write_text(suggests)
    space = f"{S}.custom_search_space=src.model.model94.space.more"
    toys.sweep(toy(94), space, f"{S}.n_trials=2", ONE)
    assert {len(trial.params) for trial in toys.study().trials} == {1}
    assert states(toys.study()) == {"COMPLETE": 2}
    toys.sweep(toy(94), f"+{S}.params={{x: 'interval(0,1)'}}", f"{S}.n_trials=2", ONE)
    assert {*toys.study().best_params} == {"x"}


def test_all_may_fail(toys: SweepLab) -> None:
    """Where all trials may fail, a sweep ends when so many have failed as were wanted."""
    all_of_them = (f"{S}.max_failure_rate=1.0", f"{S}.n_trials=3", f"{S}.max_retries=0", ONE)
    toys.sweep(TOY, SEARCH, "end=raise", *all_of_them)
    assert states(toys.study()) == {"FAIL": 3}
