"""The command line: quick answers, early refusals, the same from everywhere."""

import sys
from pathlib import Path

from src.utils.store.record import own_note

import pytest
from conftest import DATASET, FEATURE, MODEL, QUICK, Lab, free_port

SLOW = ("torch", "mlflow", "pytorch_lightning", "matplotlib", "pandas", "sklearn", "optuna")
QUESTIONS = {
    "--help": "learning_rate",
    "--cfg=job": "learning_rate: 0.002",
    "--info=searchpath": "config/model/model01",
    "-sc=install=bash": "complete",
}
REFUSALS = {
    (MODEL, "learnin_rate=0.1"): ["learnin_rate", "did you mean learning_rate"],
    (MODEL, "learning_rate=abc max_epochs=-1 network=resnet"): [
        *("learning_rate=abc", "number"),
        *("max_epochs=-1", "greater than 0"),
        *("network=resnet", "'mlp' or 'cnn'"),
    ],
    (MODEL, "max_epochs=two"): ["error: max_epochs=two"],  # once, not as trainer.max_epochs too
    (DATASET, "source=moon"): ["source=moon", "sample"],
    (DATASET, "force=perhaps"): ["force=perhaps", "boolean"],
    (FEATURE, "val_fraction=1.5 seed=1.5"): [
        "val_fraction=1.5",
        "less than 1",
        "seed=1.5",
        "integer",
    ],
    (FEATURE, "val_fraction=[0.1"): ["val_fraction=[0.1"],
    (FEATURE, "seed"): ["seed"],
    (FEATURE, "seed.deep=1"): ["seed.deep"],
    (FEATURE, "+colour=red"): ["colour"],
    (MODEL, "resume_study=latest"): ["add -m", "resume_run="],
    (FEATURE, "tags=[good,a+b]"): ["tags.1=a+b", "should match"],
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_questions_are_cheap(clone: Lab, question: str) -> None:
    """Help, settings and completion cost less than a second of CPU time, and import nothing slow."""
    answer = clone.question(clone.root / MODEL, *question.split("=", 1))
    assert "hydra" in answer.imported
    assert not answer.imported & set(SLOW)
    assert QUESTIONS[question] in answer.text
    assert answer.seconds < 1.5  # a second, and slack for a busy machine


def test_completion(clone: Lab) -> None:
    """The shell completes settings and their groups."""
    line = {"COMP_LINE": f"python {clone.root / MODEL} learn", "COMP_POINT": "1000"}
    assert "learning_rate=" in clone.done(MODEL, "-sc", "query=bash", **line)


@pytest.mark.parametrize(("program", "overrides"), REFUSALS)
def test_refusals(lab: Lab, program: str, overrides: str) -> None:
    """One line names a wrong setting, its value and what was expected; nothing is written."""
    before = lab.files()
    refused = lab.run(program, *overrides.split())
    assert refused.returncode == 2, refused.stderr
    assert refused.stdout == ""
    assert refused.stderr.startswith("error: ")
    assert refused.stderr.count("\n") == 1
    assert [said for said in REFUSALS[program, overrides] if said not in refused.stderr] == []
    assert lab.files() == before


@pytest.mark.parametrize("typed", ["learning_rate=abc", "trainer.max_epoch=3", "-m hidden=x,8"])
def test_refusals_are_cheap(clone: Lab, typed: str) -> None:
    """A wrong key, value or argument of the Trainer is refused before anything slow is imported."""
    process = clone.start(sys.executable, "-X", "importtime", clone.root / MODEL, *typed.split())
    out, err = process.communicate(timeout=240)
    modules = {
        line.split("|")[-1].strip() for line in err.splitlines() if line.startswith("import")
    }
    assert "error: " in err and not out
    assert "hydra" in modules
    assert not modules & set(SLOW)


def test_nothing_is_written(bare: Lab) -> None:
    """What only a store can tell is asked before a folder is made."""
    before = bare.files()
    nowhere = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_port()}"}
    for refused in (bare.run(MODEL, "resume_run=deadbeef"), bare.run(MODEL, **nowhere)):
        assert refused.returncode == 2, refused.stderr
        assert refused.stderr.startswith("error: ")
        assert refused.stderr.count("\n") == 1
    assert bare.files() == before


def test_last_lines(bare: Lab) -> None:
    """A program that never calls its main says so."""
    program = bare.root / FEATURE
    program.write_text(program.read_text().replace("    main()", "    pass"))
    silent = bare.run(FEATURE)
    assert (silent.returncode, silent.stdout) == (2, "")
    assert "never calls main" in silent.stderr


def test_interrupted_imports(bare: Lab) -> None:
    """Ctrl-C while a program is imported ends it at once, in one line."""
    program = bare.root / FEATURE
    begin = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nimport numpy as np\n"
    program.write_text(program.read_text().replace("import numpy as np\n", begin))
    interrupted = bare.run(FEATURE)
    assert interrupted.returncode == 130
    assert interrupted.stderr == "interrupted before it began\n"


def test_trainer_arguments(fresh: Lab) -> None:
    """Any argument of the Trainer works in a tracked run; max_steps alone says where it ends."""
    *quick, epochs = [one for one in QUICK if "max_epochs" not in one] + ["+trainer.max_steps=120"]
    more = [
        *("+trainer.num_sanity_val_steps=2", "+trainer.enable_model_summary=true"),
        *("+trainer.enable_progress_bar=true", "+trainer.callbacks=[]", "+trainer.logger=true"),
    ]
    fresh.done(MODEL, *quick, epochs, *more)
    run = fresh.newest()
    assert run.data.params["trainer.max_epochs"] == "-1"
    assert fresh.history(run, "train_loss_step")[-1][0] >= 118
    fresh.done(MODEL, *quick, "+trainer.fast_dev_run=2")
    run = fresh.newest()
    assert "test_acc" in run.data.metrics
    assert len(fresh.history(run, "train_loss_step")) == 2
    assert any((fresh.artifacts(run) / "checkpoints").glob("*.ckpt"))


def test_a_wrong_value_that_is_found_late(fresh: Lab) -> None:
    """What a library refuses while the model is made is one line, with the line that asked for it."""
    failed = fresh.run(MODEL, *QUICK, "hidden=9000000000000")
    assert failed.returncode == 1
    assert failed.stderr.count("\n") == 1, failed.stderr
    assert "error: RuntimeError: " in failed.stderr
    assert f"{Path(MODEL).name}:" in failed.stderr
    written = failed.stderr.split("the whole traceback: ")[1].strip().rstrip(")")
    assert "Traceback" in (fresh.root / written).read_text()


@pytest.mark.parametrize("question", ["", "--cfg=job", "--multirun"])
def test_broken_yaml(fresh: Lab, question: str) -> None:
    """A settings file that is no YAML is named, with the line, instead of a traceback."""
    file = fresh.root / "config/model/model01/config.yaml"
    file.write_text("network: cnn\nhidden: 256: 128\n")
    refused = fresh.run(MODEL, *question.split("=", 1)) if question else fresh.run(MODEL)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert f'"{file}", line 2' in refused.stderr


def test_any_directory(fresh: Lab, tmp_path: Path) -> None:
    """Started somewhere else, a program works in the repository and leaves nothing where it was started."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    finished = fresh.run(DATASET, "source=sample", "force=true", cwd=elsewhere)
    assert finished.returncode == 0, finished.stderr
    assert not list(elsewhere.iterdir())
    assert len(fresh.runs("dataset/dataset01")) == 2
    assert len(list((fresh.root / "logs/logging_/dataset/dataset01").rglob("*.log"))) == 2
    assert len(list((fresh.root / "outputs/dataset/dataset01").rglob("config.yaml"))) == 2


def test_numbers_as_text(fresh: Lab) -> None:
    """A note or a tag that looks like a number is kept to the letter, by a run and by a search."""
    text = ("note=12e45678", "tags=[2026]")
    fresh.done(DATASET, "source=sample", "force=true", *text)
    fresh.done(MODEL, *QUICK, "max_epochs=1", "-m", "learning_rate=0.001,0.002", *text)
    study, *trials = reversed(fresh.runs("model/model01")[:3])
    for run in (study, *trials, fresh.newest("dataset/dataset01")):
        assert own_note(run.data.tags["mlflow.note.content"]) == "12e45678"
        assert run.data.tags["tag.2026"] == "true"


def test_ids_that_look_like_numbers(fresh: Lab) -> None:
    """The beginning of a run's id may be 12e45678."""
    refused = fresh.run(MODEL, "resume_run=12e45678")
    assert refused.stderr.startswith("error: there is no run '12e45678'")
