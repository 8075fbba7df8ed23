"""Sweeps, as they are typed: what they search, what they leave behind, and what they survive."""

import importlib.util
import multiprocessing
import os
import random
import re
import signal
import time

from src.utils.cores import count_cores
from src.utils.store.record import own_note

import optuna
import pytest
from conftest import MODEL, QUICK, Lab, until
from omegaconf import OmegaConf
from optuna.trial import TrialState
from optuna_dashboard import get_note
from optuna_dashboard._note import get_note_from_system_attrs
from sweeps import TOY, SweepLab, alive, create_fresh_toys, finished, states  # noqa: F401  a fixture

TWO = "hydra.sweeper.n_jobs=2"


@pytest.fixture(scope="module")
def toys(clone: Lab, tmp_path_factory: pytest.TempPathFactory) -> SweepLab:
    """A laboratory with the toy model, shared by the tests of this file."""
    lab = SweepLab(clone.copied(tmp_path_factory.mktemp("sweeps") / "lab").root)
    lab.add_toy()
    lab.git("add", ".")
    lab.git("commit", "--quiet", "--message=Toy")
    return lab


@pytest.fixture(scope="module")
def searched(toys: SweepLab) -> optuna.Study:
    """A study of three trials that is over."""
    toys.sweep(TOY, "x=interval(0,1)", "hydra.sweeper.n_trials=3", "hydra.sweeper.study_name=over")
    return toys.study("over")


@pytest.fixture(scope="module")
def mnist(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> SweepLab:
    """A laboratory whose data are ready."""
    return SweepLab(lab.copied(tmp_path_factory.mktemp("mnist") / "lab").root)


@pytest.fixture(scope="module")
def example(mnist: SweepLab) -> tuple[SweepLab, str]:
    """The sweep of the README, shortened: the laboratory, and what was printed."""
    few = (*QUICK, "hydra.sweeper.n_trials=4", TWO, "note=a first look", "tags=[try]")
    return mnist, mnist.sweep(MODEL, "learning_rate=interval(0.001,0.002)", *few)


def test_search(example: tuple[SweepLab, str]) -> None:
    """`-m 'learning_rate=interval(0.001,0.002)'` searches that range, prints the best and what comes next,
    and writes Hydra's results."""
    lab, said = example
    study = lab.study()
    assert len(finished(study)) == 4
    assert study.direction.name == "MAXIMIZE"
    assert all(0.001 <= trial.params["learning_rate"] <= 0.002 for trial in study.trials)
    assert f"{study.best_value:.4f}" in said
    assert f"resume_study={study.study_name}" in said
    (results,) = lab.root.glob("multirun/**/optimization_results.yaml")
    assert OmegaConf.load(results) == {
        "name": "optuna",
        "best_params": study.best_params,
        "best_value": study.best_value,
    }


def test_study_in_mlflow(example: tuple[SweepLab, str]) -> None:
    """A study is one run with its best, its table and its plots, and a nested run for each trial."""
    lab, _ = example
    study = lab.study()
    parent, children = lab.study_run(study), lab.trial_runs(study)
    assert parent.info.status == "FINISHED"
    assert parent.info.run_name == study.study_name
    notes = [own_note(run.data.tags["mlflow.note.content"]) for run in (parent, *children)]
    assert notes == ["a first look"] * 5
    assert [run.data.tags["tag.try"] for run in (parent, *children)] == ["true"] * 5
    assert [run.info.run_id for run in children] == [t.user_attrs["run_id"] for t in study.trials]
    assert [run.info.status for run in children] == ["FINISHED"] * 4
    for run, trial in zip(children, study.trials, strict=True):
        assert run.data.tags["optuna.state"] == trial.state.name.lower()
        assert run.data.tags["optuna.study"] == study.study_name
        assert float(run.data.params["learning_rate"]) == trial.params["learning_rate"]
        assert run.data.tags["mlflow.source.git.commit"] == lab.git("rev-parse", "HEAD").strip()
    best = study.best_trial
    assert parent.data.tags["best.run_id"] == best.user_attrs["run_id"]
    assert float(parent.data.tags["best.learning_rate"]) == best.params["learning_rate"]
    assert parent.data.metrics["best_value"] == parent.data.metrics["val_acc"] == best.value
    assert parent.data.params == children[best.number].data.params
    assert len((lab.artifacts(parent) / "trials.csv").read_text().splitlines()) == 5
    place = lab.artifacts(parent) / "plots"
    sizes = {file.name: file.stat().st_size for file in place.iterdir()}
    expected = {"optimization_history.png", "slice.png", "timeline.png", "study.html"}
    assert expected | {"intermediate_values.png"} <= set(sizes)
    assert "param_importances.png" not in sizes  # four trials do not tell it
    assert min(sizes.values()) > 5000


def test_names(example: tuple[SweepLab, str]) -> None:
    """The name of a study begins with its time and what it searches, that of a trial with what it tried;
    the objective is called as its metric."""
    lab, _ = example
    study = lab.study()
    assert re.fullmatch(r"(\d\d-){4}learning_rate-[0-9a-f]{4}", study.study_name)
    assert study.metric_names == ["val_acc"]
    for trial, run in zip(study.trials, lab.trial_runs(study), strict=True):
        pruned = " (pruned)" * (trial.state is TrialState.PRUNED)
        assert run.info.run_name.startswith(f"#{trial.number}{pruned} learning_rate=0.001")


def test_notes(example: tuple[SweepLab, str]) -> None:
    """optuna-dashboard has a note of the study and of each trial, with links to their runs in MLflow; the
    study's run in MLflow describes its best trials after the user's own note, and links to their runs."""
    lab, _ = example
    study = lab.study()
    best, note = study.best_trial.user_attrs["run_id"], get_note(study)
    assert f"runs/{best}?" in note
    assert "a first look" in note
    for trial in study.trials:
        attributes = study._storage.get_study_system_attrs(study._study_id)
        note = get_note_from_system_attrs(attributes, trial._trial_id)["body"]
        assert f"#{trial.number} learning_rate=" in note
        assert f"runs/{trial.user_attrs['run_id']}?" in note
        assert trial.state.name.lower() in note
    description = lab.study_run(study).data.tags["mlflow.note.content"]
    assert description.startswith("a first look\n\n")
    assert f"Best val_acc {study.best_value:.4f} with `learning_rate=" in description
    assert f"(#/experiments/{lab.study_run(study).info.experiment_id}/runs/{best}?" in description


def test_data_of_a_study(example: tuple[SweepLab, str]) -> None:
    """A study has read what its trials have read."""
    lab, _ = example
    parent, *children = (lab.study_run(lab.study()), *lab.trial_runs(lab.study()))
    read = [
        {(one.dataset.name, one.dataset.digest) for one in run.inputs.dataset_inputs}
        for run in (parent, *children)
    ]
    assert read[0]
    assert all(one == read[0] for one in read)


def test_load_best_model(example: tuple[SweepLab, str]) -> None:
    """`load_model` takes the name of a study, and gives the model of its best trial."""
    lab, _ = example
    study = lab.study()
    code = f"""
        from src.utils.tracking import load_model
        print(load_model("{study.study_name}").config.learning_rate)
    """
    assert str(study.best_params["learning_rate"]) in lab.python(code)[0]


def test_no_telemetry(example: tuple[SweepLab, str]) -> None:
    """Nothing that a sweep or a training imports lets MLflow's telemetry start."""
    lab, _ = example
    for module in ("src.utils.run", "src.utils.sweep.sweeper", "src.utils.tracking"):
        code = f"import {module}; from mlflow.telemetry import get_telemetry_client as client"
        assert "None" in lab.python(f"{code}; print(client())")[0]


PRUNE_ALL = (
    "hydra/sweeper/pruner=threshold",
    "hydra.sweeper.pruner.lower=2",
)  # no val_acc is over 1


def test_pruning(mnist: SweepLab) -> None:
    """A trial that is pruned ends after its first validation, as a finished run that is tagged so, and its
    worker takes the next."""
    few = (
        *QUICK,
        "max_epochs=100",
        *PRUNE_ALL,
        "hydra.sweeper.n_trials=3",
        "hydra.sweeper.n_jobs=1",
    )
    said = mnist.sweep(MODEL, "learning_rate=interval(0.001,0.002)", *few)
    study = mnist.study()
    assert states(study) == {"PRUNED": 3}
    assert said.count("pruned") >= 3
    for trial, run in zip(study.trials, mnist.trial_runs(study), strict=True):
        assert list(trial.intermediate_values) == [1]
        assert trial.intermediate_values[1] == mnist.history(run, "val_acc")[0][1]
        assert len(mnist.history(run, "val_acc")) == 1
        assert (run.info.status, run.data.tags["optuna.state"]) == ("FINISHED", "pruned")
        assert run.info.run_name.startswith(f"#{trial.number} (pruned) ")


def test_pruning_when_distributed(mnist: SweepLab) -> None:
    """A training in two processes is pruned as a whole."""
    ddp = ("trainer.devices=2", "trainer.strategy=ddp", "max_epochs=100", *PRUNE_ALL)
    few = (
        "hydra.sweeper.n_trials=1",
        "hydra.sweeper.n_jobs=1",
        f"hydra.sweeper.storage={mnist.storage}2",
    )
    mnist.sweep(MODEL, "learning_rate=interval(0.001,0.002)", *QUICK, *ddp, *few)
    (name,) = optuna.get_all_study_names(f"{mnist.storage}2")
    study = optuna.load_study(study_name=name, storage=f"{mnist.storage}2")
    assert states(study) == {"PRUNED": 1}
    (run,) = mnist.trial_runs(study)
    assert (run.info.status, len(mnist.history(run, "val_acc"))) == ("FINISHED", 1)


def test_no_barrier(toys: SweepLab) -> None:
    """A trial starts the moment another ends: trials of very unequal length take no longer than they must."""
    toys.sweep(TOY, "seconds=6,1.5,1.6,1.7,1.4", TWO)
    trials = toys.study().trials
    free = [0.0, 0.0]  # when each of two workers is, in the ideal schedule
    for trial in trials:
        assert trial.duration
        free[free.index(min(free))] += trial.duration.total_seconds()
    began = min(trial.datetime_start for trial in trials if trial.datetime_start)
    ended = max(trial.datetime_complete for trial in trials if trial.datetime_complete)
    assert (ended - began).total_seconds() < 1.1 * max(free)


REASONS = {
    "raise": "ValueError: x makes no sense",
    "undefined": "main returned nan: no finite number",
    "none": "main returned None: no finite number",
    "exit": "exit code 3 and no result",
    "segfault": "killed by SIGSEGV",
    "kill": "killed by SIGKILL (out of memory?)",
    "hang": "timed out after 5 s",
}


def test_failures(toys: SweepLab) -> None:
    """However a trial ends, it is one failed trial with its reason; it is tried again max_retries times, and
    the sweep goes on."""
    ends = f"end={','.join(REASONS)},value"
    policy = ("hydra.sweeper.max_failure_rate=1", "hydra.sweeper.trial_timeout=5", TWO)
    said = toys.sweep(TOY, ends, *policy)
    study = toys.study()
    assert states(study) == {"FAIL": 2 * len(REASONS), "COMPLETE": 1}
    runs = {run.info.run_id: run for run in toys.trial_runs(study)}
    for end, reason in REASONS.items():
        tried = [trial for trial in study.trials if trial.params["end"] == end]
        assert len(tried) == 2
        for trial in tried:
            assert reason in trial.user_attrs["reason"]
            run = runs[trial.user_attrs["run_id"]]
            assert reason in run.data.tags["reason"]
            assert run.data.tags["optuna.state"] == "fail"
            assert run.info.status in ("FINISHED", "KILLED", "FAILED")
        assert said.count(reason) == 2


RESULTS = {
    "number": "COMPLETE",  # a np.float32
    "tensor": "COMPLETE",
    "array": "COMPLETE",
    "workers": "COMPLETE",
    "pruned": "PRUNED",
    "lost": "FAIL",
}


@pytest.fixture(scope="module")
def results(toys: SweepLab) -> tuple[str, optuna.Study]:
    """A sweep of trials that end as other people's code ends them: what it printed, and its study."""
    policy = ("hydra.sweeper.max_retries=0", "hydra.sweeper.max_failure_rate=1")
    said = toys.sweep(TOY, f"end={','.join(RESULTS)},raise", "x=0.25", *policy, TWO)
    return said, toys.study()


def trial_that(study: optuna.Study, end: str) -> optuna.trial.FrozenTrial:
    (trial,) = [one for one in study.trials if one.params["end"] == end]
    return trial


def test_results(results: tuple[str, optuna.Study]) -> None:
    """Numbers of NumPy and torch are numbers, `optuna.TrialPruned` is a pruned trial, and a trial that
    another process has taken over is a lost one and no crash."""
    said, study = results
    assert {end: trial_that(study, end).state.name for end in RESULTS} == RESULTS
    for end in ("number", "tensor", "array"):
        assert trial_that(study, end).value == 0.25
    assert len(trial_that(study, "pruned").intermediate_values) == 50
    assert f"trial {trial_that(study, 'lost').number} was taken over" in said


def test_workers(toys: SweepLab, results: tuple[str, optuna.Study]) -> None:
    """A trial starts processes as a program that is run alone: a DataLoader's workers are forked, and
    need not pickle what they are given."""
    _, study = results
    trial = trial_that(study, "workers")
    assert trial.value == sum(range(8)) + 2  # in two batches
    (run,) = [
        one for one in toys.trial_runs(study) if one.info.run_id == trial.user_attrs["run_id"]
    ]
    assert run.data.tags["start_method"] == multiprocessing.get_all_start_methods()[0]


def test_line_of_a_failure(toys: SweepLab, results: tuple[str, optuna.Study]) -> None:
    """A failed trial names the line of the experiment on the screen; the whole traceback is in its run and
    in its output."""
    said, study = results
    code = (toys.root / TOY).read_text().splitlines()
    number = 1 + next(i for i, line in enumerate(code) if "raise ValueError" in line)
    assert f"ValueError: x makes no sense ({TOY}:{number})" in said
    trial = trial_that(study, "raise")
    (run,) = [
        one for one in toys.trial_runs(study) if one.info.run_id == trial.user_attrs["run_id"]
    ]
    unique = study.study_name[-4:]  # of the sweep's folder, too
    (output,) = toys.root.glob(f"multirun/**/*-{unique}/{trial.number}/output.txt")
    for file in (toys.artifacts(run) / "logs/traceback.txt", output):
        assert f'{TOY}", line {number}, in main' in file.read_text()


def test_too_many_failures(toys: SweepLab) -> None:
    """A sweep stops when more trials fail than max_failure_rate allows, with one line that says why."""
    policy = ("hydra.sweeper.max_retries=0", "hydra.sweeper.n_trials=10", "hydra.sweeper.n_jobs=1")
    said = toys.sweep(TOY, "x=interval(0,1)", "end=raise", *policy, code=2)
    assert states(toys.study()) == {"FAIL": 3}
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "3 of 10 trials failed" in line
    assert "ValueError: x makes no sense" in line
    assert toys.study_run(toys.study()).info.status == "FAILED"


def test_killed_and_resumed(fresh_toys: SweepLab) -> None:
    """A sweep that was killed several times ends on `resume_study=latest` with exactly n_trials, and leaves
    nothing running, nothing lost and nothing overwritten."""
    lab, moments = fresh_toys, random.Random(0)
    first = ["x=interval(0,1)", "seconds=0.5", "hydra.sweeper.n_trials=12", TWO]
    seen: set[float] = set()
    killed = 0
    for attempt in range(4):
        begun = set(lab.trial_folders())
        process = lab.start_sweep(TOY, *(["resume_study=latest"] if lab.studies() else first))
        if attempt:  # at any moment after its first trial has begun
            until(lambda begun=begun: set(lab.trial_folders()) > begun)
        time.sleep(moments.uniform(0, 1.5))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            killed += 1
        process.communicate()
        if lab.studies():
            running = lab.study().get_trials(states=(TrialState.RUNNING,))
            seen |= {trial.params["x"] for trial in running if "x" in trial.params}
    lab.sweep(TOY, "resume_study=latest")

    study = lab.study()
    assert killed >= 3
    assert len(lab.studies()) == 1
    assert len(finished(study)) == 12
    assert set(states(study)) <= {"COMPLETE", "FAIL"}
    assert seen <= {trial.params["x"] for trial in finished(study)}
    assert len({trial.params["x"] for trial in finished(study)}) == 12
    runs = lab.trial_runs(study)
    assert "RUNNING" not in {run.info.status for run in [lab.study_run(study), *runs]}
    complete = [run for run in runs if run.data.tags.get("optuna.state") == "complete"]
    assert len(complete) == 12
    outputs = [run.data.tags["hydra.output"] for run in complete]
    assert len(set(outputs)) == 12


def test_orphans(fresh_toys: SweepLab) -> None:
    """When only the sweep's own process is killed, its workers end by themselves."""
    lab = fresh_toys
    process = lab.start_sweep(TOY, "x=interval(0,1)", "seconds=100", TWO)
    runs = until(lambda: lab.running_trials(2))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    until(lambda: not any(alive(int(run.data.tags["pid"])) for run in runs), 20)
    assert {run.info.status for run in lab.trial_runs(lab.study())} == {"KILLED"}


def test_sharing(toys: SweepLab) -> None:
    """The same command twice at the same time makes one study, with one total and one run in MLflow."""
    shared = ("hydra.sweeper.study_name=shared", "hydra.sweeper.n_trials=7", TWO)
    both = [toys.start_sweep(TOY, "x=interval(0,1)", "seconds=0.5", *shared) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    study = toys.study("shared")
    assert states(study)["COMPLETE"] == 7
    assert set(states(study)) <= {"COMPLETE", "FAIL"}  # the last ones may be begun by both
    assert len({trial.user_attrs["owner"] for trial in study.trials}) == 2
    experiment = toys.client.get_experiment_by_name("model/model90").experiment_id
    assert len(toys.client.search_runs([experiment], "attributes.run_name = 'shared'")) == 1


def test_same_question(toys: SweepLab, searched: optuna.Study) -> None:
    """A study goes on only with the question it has: what differs is named."""
    differences = {
        "x=": ["x=interval(0,2)"],
        "seconds=0.1": ["x=interval(0,1)", "seconds=0.1"],
        "direction=minimize, not maximize": ["x=interval(0,1)", "hydra.sweeper.direction=maximize"],
    }
    tries = [
        toys.start_sweep(TOY, "resume_study=over", *changes) for changes in differences.values()
    ]
    for process, difference in zip(tries, differences, strict=True):
        out, errors = process.communicate(timeout=120)
        assert process.returncode == 2, out + errors
        assert out + errors == errors.splitlines()[0] + "\n"
        assert "over has" in errors
        assert difference.split("=")[0] in errors
        assert difference.split("=")[-1] in errors
    assert states(searched) == {"COMPLETE": 3}


def test_more_trials(toys: SweepLab, searched: optuna.Study) -> None:
    """`resume_study=NAME` with a larger n_trials runs the missing trials. The study keeps its run, with the
    parameters of the new best trial. A value that is no metric of a trial's run is its `objective`."""
    searched.enqueue_trial({"x": 0.3})  # nothing is better
    before = toys.study_run(searched).data.params["x"]
    toys.sweep(TOY, "resume_study=over", "hydra.sweeper.n_trials=5")
    study = toys.study("over")
    parent, children = toys.study_run(study), toys.trial_runs(study)
    assert states(study) == {"COMPLETE": 5}
    assert len(children) == 5
    assert before != parent.data.params["x"] == "0.3"
    assert study.metric_names == ["objective"]
    assert parent.data.metrics["objective"] == study.best_value
    assert [one.data.metrics["objective"] for one in children] == [
        one.value for one in study.trials
    ]
    assert parent.data.tags["monitor"] == children[0].data.tags["monitor"] == "objective min"


def test_nothing_to_resume(toys: SweepLab, searched: optuna.Study) -> None:
    """`resume` of a study that is not there names those that are."""
    said = toys.sweep(TOY, "resume_study=lost", code=2)
    assert "there is no study 'lost'" in said
    assert "over" in said


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c(fresh_toys: SweepLab, times: int) -> None:
    """Ctrl-C lets the running trials finish, a second one stops them; either way the states say so, and the
    summary tells how to go on."""
    lab = fresh_toys
    length = f"seconds={3 if times == 1 else 60}"
    process = lab.start_sweep(TOY, "x=interval(0,1)", length, "hydra.sweeper.n_trials=6", TWO)
    until(lambda: lab.running_trials(2))
    for _ in range(times):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.5)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 130, out + errors
    assert f"resume_study={lab.study().study_name}" in out
    assert "Traceback" not in out + errors
    expected = {"COMPLETE": 2} if times == 1 else {"FAIL": 2, "WAITING": 2}
    assert states(lab.study()) == expected
    status = {run.info.status for run in lab.trial_runs(lab.study())}
    assert status == ({"FINISHED"} if times == 1 else {"KILLED"})
    assert lab.study_run(lab.study()).info.status == "KILLED"


def test_ctrl_c_on_a_terminal(fresh_toys: SweepLab) -> None:
    """What Ctrl-C did stands under the live table as long as it holds; a narrow terminal shows the running
    trials a line each."""
    lab, once = fresh_toys, "stopping after the running trials; Ctrl-C again stops now"
    space = ("x=interval(0,1)", "y=choice(low,high)", "+trainer.gradient_clip_val=choice(1,2)")
    terminal = lab.start_on_terminal(60, TOY, *space, "seconds=60", "hydra.sweeper.n_trials=6", TWO)
    until(lambda: lab.running_trials(2))
    os.killpg(terminal.process.pid, signal.SIGINT)
    until(lambda: terminal.text.count(once) > 2)  # drawn again and again
    os.killpg(terminal.process.pid, signal.SIGINT)
    assert terminal.end() == 130
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.text)
    rows = {
        line.split()[0]: line for line in shown.splitlines() if "x=0." in line and " s " in line
    }
    assert {"0", "1"} <= set(rows)
    assert max(map(len, rows.values())) <= 60
    assert states(lab.study()) == {"FAIL": 2, "WAITING": 2}


def test_grid(toys: SweepLab) -> None:
    """`-m a=1,2 b=3,4` runs every combination once."""
    toys.sweep(TOY, "x=0.1,0.2", "y=low,high")
    points = {(trial.params["x"], trial.params["y"]) for trial in toys.study().trials}
    assert points == {(0.1, "low"), (0.1, "high"), (0.2, "low"), (0.2, "high")}
    assert states(toys.study()) == {"COMPLETE": 4}


def test_added_settings(toys: SweepLab) -> None:
    """What is not in config.yaml can be searched too, with a + before its name."""
    toys.sweep(TOY, "+trainer.gradient_clip_val=1,2")
    parent, children = toys.study_run(toys.study()), toys.trial_runs(toys.study())
    assert parent.data.tags["best.trainer.gradient_clip_val"] in ("1", "2")
    tried = {run.data.params["trainer.gradient_clip_val"] for run in children}
    assert tried == {"1", "2"}


def test_grid_sampler(toys: SweepLab) -> None:
    """`hydra/sweeper/sampler=grid` runs every step of a range once, and refuses what has no steps."""
    toys.sweep(TOY, "x=range(0,3)", "y=choice(low,high)", "hydra/sweeper/sampler=grid")
    points = sorted((trial.params["x"], trial.params["y"]) for trial in toys.study().trials)
    assert points == [(x, y) for x in range(3) for y in ("high", "low")]
    assert "steps" in toys.sweep(TOY, "x=interval(0,1)", "hydra/sweeper/sampler=grid", code=2)


def test_settings_in_yaml(fresh_toys: SweepLab) -> None:
    """The search may live in config.yaml: params, a search space of one's own, a pruner, a direction."""
    settings = """
hydra:
  sweeper:
    direction: maximize
    params:
      x: interval(0,1)
    custom_search_space: extend
    n_trials: 6
"""
    program = fresh_toys.add_toy("model91", settings)
    fresh_toys.sweep(program, "hydra/sweeper/pruner=hyperband", "hydra.sweeper.sampler.seed=1")
    study = fresh_toys.study()
    assert states(study) == {"COMPLETE": 6}
    assert study.direction.name == "MAXIMIZE"
    assert {"y" in t.params for t in study.trials} == {True, False}
    assert all(("y" in trial.params) == (trial.params["x"] < 0.5) for trial in study.trials)
    assert fresh_toys.client.get_experiment_by_name("model/model91")


def test_several_objectives(toys: SweepLab) -> None:
    """With several objectives there is a Pareto front, and no pruning, which is said."""
    both = ("end=values", "hydra.sweeper.direction=[minimize,maximize]", "hydra.sweeper.n_trials=4")
    said = toys.sweep(TOY, "x=interval(0,1)", *both)
    study = toys.study()
    assert "nothing is pruned" in said
    assert "Pareto" in said
    place = toys.artifacts(toys.study_run(study)) / "plots"
    assert (place / "pareto_front.png").stat().st_size > 5000
    results = OmegaConf.load(toys.artifacts(toys.study_run(study)) / "optimization_results.yaml")
    assert len(results.solutions) == len(study.best_trials)


REFUSED = {
    "y=low,wrong,high": "y=wrong is refused",
    "x=interval(1,0)": "makes no sense",
    "x=tag(log,interval(0,1))": "makes no sense",
    "z=interval(0,1)": "z is not a setting",
    "x=0.5": "nothing to search",
    "hydra.sweeper.custom_search_space=more": "toy.py has no such function",
    "seconds=choice(1,soon)": "seconds=soon is refused",
    "x=1,2 hydra.sweeper.storage=studies.db": "store studies.db can't be opened: Could not parse",
    "x=1,2 hydra.sweeper.storage=postgresql://me:secret@127.0.0.1:1/x": "postgresql://me:***@127.0.0.1:1/x",
    "x=1,2 hydra.sweeper.storage=mysql://here/x": "No module named 'MySQLdb'",
    "x=1,2 hydra.sweeper.storage=sqlite:////proc/x.db": "can't be opened: No such file or directory",
    "x=1,2 hydra.sweeper.storage=sqlite:////proc/x/y.db": "can't be opened: No such file or directory",
}


def test_refusals(fresh_toys: SweepLab) -> None:
    """A search space that makes no sense is refused in one line, before anything is written."""
    lab = fresh_toys
    before = set(lab.files())
    tries = [lab.start_sweep(TOY, *line.split()) for line in REFUSED]
    for process, reason in zip(tries, REFUSED.values(), strict=True):
        out, errors = process.communicate(timeout=120)
        assert process.returncode == 2, out + errors
        assert reason in errors
        assert len((out + errors).splitlines()) == 1, out + errors
    made = {path for path in set(lab.files()) - before if path.suffix != ".lock"}
    assert not [path for path in made if path.parts[0] == "multirun"]
    assert not (lab.root / "multirun/model").exists()  # not even an empty folder
    assert lab.studies() == []


def test_gpu_leases(toys: SweepLab) -> None:
    """Each trial sees one GPU, and no more trials share it than jobs_per_gpu allows; trials that train on the
    CPU share the cores."""
    gpus = {"CUDA_VISIBLE_DEVICES": "0,1"}
    four = ("x=0.1,0.2,0.3,0.4", "seconds=1", "hydra.sweeper.n_jobs=4")
    assert "2 at a time" in toys.sweep(TOY, *four, "hydra.launcher.jobs_per_gpu=1", **gpus)
    runs = toys.trial_runs(toys.study())
    assert sorted(run.data.tags["CUDA_VISIBLE_DEVICES"] for run in runs) == ["0", "0", "1", "1"]
    for gpu in "01":
        first, second = [
            (run.info.start_time, run.info.end_time)
            for run in runs
            if run.data.tags["CUDA_VISIBLE_DEVICES"] == gpu
        ]
        assert first[1] <= second[0]
    one = {"CUDA_VISIBLE_DEVICES": "0"}
    said = toys.sweep(TOY, "x=0.1,0.2", "trainer.accelerator=cpu", **one)
    assert f"{min(count_cores(), 4)} at a time" in said


def test_threads(toys: SweepLab) -> None:
    """The cores are shared among the trials that run at the same time, unless it is said otherwise."""
    cores = count_cores()
    command = [
        "env",
        "-u",
        "OMP_NUM_THREADS",
        str(toys.root / ".venv/bin/python"),
        str(toys.root / TOY),
    ]
    process = toys.start(*command, "-m", "x=0.1,0.2", TWO)
    assert process.wait(120) == 0
    process.communicate()
    threads = {run.data.tags["OMP_NUM_THREADS"] for run in toys.trial_runs(toys.study())}
    assert threads == {str(max(1, cores // 2))}


OTHERS = {
    "basic sweeper": ["hydra/sweeper=basic", "x=0.1,0.2"],
    "official sweeper": ["hydra/sweeper=optuna", "x=interval(0,1)", "hydra.sweeper.n_trials=2"],
}


@pytest.mark.parametrize("arguments", OTHERS.values(), ids=OTHERS)
def test_other_sweepers(fresh_toys: SweepLab, arguments: list[str]) -> None:
    """Hydra's own sweepers run their jobs with our launcher."""
    fresh_toys.sweep(TOY, *arguments)
    runs = fresh_toys.runs("model/model90")
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]
    assert len({run.data.tags["pid"] for run in runs}) == 2


def test_failure_in_another_sweeper(toys: SweepLab) -> None:
    """Under Hydra's own sweeper a failed job ends the program with one line."""
    said = toys.sweep(TOY, "hydra/sweeper=basic", "x=0.1,0.2", "end=raise", code=2)
    (line,) = said.splitlines()
    assert line.startswith("error: the job x=0.1 end=raise failed: ValueError: x makes no sense (")


@pytest.mark.parametrize("sweeper", ["basic", "optuna"])
def test_ctrl_c_in_another_sweeper(fresh_toys: SweepLab, sweeper: str) -> None:
    """Ctrl-C stops the jobs of Hydra's own sweepers: their runs are KILLED at once, and nothing is left."""
    lab = fresh_toys
    length = ("x=choice(0.1,0.2,0.3)", "seconds=100")
    process = lab.start_sweep(TOY, f"hydra/sweeper={sweeper}", *length)
    jobs = until(lambda: [run for run in lab.runs("model/model90") if "pid" in run.data.tags])
    os.killpg(process.pid, signal.SIGINT)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 130, out + errors
    announced = ("Study name: ", "Storage: ", "Sampler: ", "Directions: ")  # by the sweeper itself
    said = [line for line in (out + errors).splitlines() if not line.startswith(announced)]
    assert said == ["stopping the running jobs"]
    assert {run.info.status for run in lab.runs("model/model90")} == {"KILLED"}
    assert not [run for run in jobs if alive(int(run.data.tags["pid"]))]


@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_other_launchers(toys: SweepLab, launcher: str) -> None:
    """Hydra's own launchers run our trials."""
    plugin = f"hydra_plugins.hydra_{launcher.split('_', maxsplit=1)[0]}_launcher"
    if launcher != "basic" and importlib.util.find_spec(plugin) is None:
        pytest.skip(f"{plugin} is not installed")
    toys.sweep(TOY, f"hydra/launcher={launcher}", "x=interval(0,1)", "hydra.sweeper.n_trials=3")
    study = toys.study()
    assert states(study) == {"COMPLETE": 3}
    assert len(toys.trial_runs(study)) == 3


def test_no_dashboard_yet(clone: Lab) -> None:
    """scripts/optuna_dashboard.sh says in one line when there is no study to show."""
    process = clone.start("bash", clone.root / "scripts/optuna_dashboard.sh")
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "no studies yet" in errors
    assert (out + errors).count("\n") == 1
