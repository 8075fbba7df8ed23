"""Equal runs: the same code, settings and data once more."""

import json
import signal
from pathlib import Path
from typing import Any

from src.utils.paths import Experiment
from src.utils.pipeline.manifest import Manifest
from src.utils.runs.signature import signature
from src.utils.settings import Settings

import pytest
from conftest import MODEL, QUICK, Lab, copy_experiment, made_once
from laboratory import said
from mlflow.entities import Run
from sweeps import SweepLab, finished
from test_groups import NAME as GROUPS
from test_groups import PROGRAM as FOLDS
from test_groups import SETTINGS as FOLD_SETTINGS
from test_groups import add_experiment, group, members
from test_plain_models import NAME, PROGRAM, add_logistic

SAME = "has the same code, settings and data"


@pytest.fixture(scope="session")
def asked(shared: Path, clone: Lab) -> SweepLab:
    """A laboratory with one finished run of each of two models, and one that was killed. To be read only."""

    def make(lab: Lab) -> None:
        clone.copied(lab.root)
        add_logistic(lab)
        add_experiment(lab, FOLDS, FOLD_SETTINGS)
        lab.done(PROGRAM, "note=first", "tags=[first]")
        lab.done(FOLDS, "folds=2", "fold=0")
        said_before = (
            "1 of 2 members are equal to finished runs: reuse=true takes the results of those"
        )
        assert said_before in lab.done(FOLDS, "folds=2")
        assert lab.run(PROGRAM, "rate=0.3", KILL="3").returncode == -signal.SIGKILL

    return SweepLab(made_once(shared / "same-question", make).root)


@pytest.fixture(name="own")
def an_own_one(asked: SweepLab, tmp_path: Path) -> SweepLab:
    """A copy of the laboratory that the test may change."""
    return SweepLab(asked.copied(tmp_path / "own").root)


def noted(lab: Lab, note: str, name: str = NAME) -> Run:
    return next(run for run in lab.runs(name) if run.data.tags["mlflow.note.content"] == note)


def test_a_run_names_its_equal(own: SweepLab, tmp_path: Path) -> None:
    """A run names the finished run with the same code, settings and data, with its result, and runs; with
    reuse=true it does not run. Other settings, other code and a run that was killed are not the same. `lab
    show` has the signature, and the runs that share it."""
    first, killed = noted(own, "first"), own.newest(NAME)
    short, loss = first.info.run_id[:8], f"{first.data.metrics['val_loss']:.4f}"
    copy_experiment(own, "model/model92", "model/model95")
    copy_experiment(own, "model/model92", "model/model96")
    (own.root / "src/model/model96/words.txt").write_text("read by the program")
    copy, edited = (PROGRAM.replace("model92", name) for name in ("model95", "model96"))
    lines = [
        [PROGRAM, "reuse=true", "note=no matter"],
        [PROGRAM, "note=again"],
        [PROGRAM, "rate=0.3", "reuse=true", "note=whole"],
        [PROGRAM, f"resume_run={killed.info.run_id}"],
        [PROGRAM, f"warm_start={short}", "note=warm"],
        [PROGRAM, f"warm_start={first.info.run_name}", "reuse=true"],
        [copy],
        [edited],
    ]
    results = own.run_lines(lines, tmp_path)
    assert [code for code, _ in results] == [0] * len(lines)
    reused, again, whole, resumed, warm, warm_again, of_copy, of_edited = (t for _, t in results)
    assert f"run {short} ({first.info.run_name}, finished " in again
    assert f"{SAME}: val_loss {loss}; " in again
    assert f"lab show {short} shows it, reuse=true returns it instead\n" in again
    assert f"{SAME}: val_loss {loss}; it is returned (reuse=true)\n" in reused
    assert f"│ run id   │ {first.info.run_id} │" in reused
    assert f"run {noted(own, 'warm').info.run_id[:8]}" in warm_again
    assert SAME in of_copy
    assert not [text for text in (whole, resumed, warm, of_edited) if SAME in text]
    notes = [run.data.tags["mlflow.note.content"] for run in own.runs(NAME)]
    assert sorted(notes) == ["", "again", "first", "warm", "whole"]
    by_note = {note: noted(own, note).data.tags["signature"] for note in notes}
    assert by_note["first"] == by_note["again"] != by_note["warm"]
    assert by_note[""] == by_note["whole"]  # resumed, and run at once
    shown = said(own, "show", first.info.run_id)
    assert f"signature  {by_note['first'][:12]}, as" in shown
    other = noted(own, "again").info
    assert f"{other.run_id[:8]}  {other.run_name}  finished" in shown
    answer = json.loads(said(own, "show", first.info.run_id, "--json"))
    assert answer["signature"] == by_note["first"]
    assert other.run_id in answer["equal"]


def test_trials_are_reused(own: SweepLab, tmp_path: Path) -> None:
    """With reuse=true a trial with an equal run has a run of its own in the study, with the value, the
    history, the tags and the files of that run; one that was pruned is tried again."""
    first = noted(own, "first")
    prune = ["hydra/sweeper/pruner=threshold", "hydra.sweeper.pruner.upper=0.7"]
    search = ["rate=0.5,0.1", "hydra.sweeper.n_jobs=1", "reuse=true", "note=study"]
    out = own.sweep(PROGRAM, *search, *prune)
    trial, pruned = finished(own.study())
    assert f"reused {first.info.run_id[:8]}" in out
    assert (trial.value, pruned.state.name) == (first.data.metrics["val_loss"], "PRUNED")
    run = own.client.get_run(trial.user_attrs["run_id"])
    assert run.data.tags["reused_from"] == first.info.run_id
    assert run.data.tags["start"] == "0"  # set by main
    assert own.history(run, "val_loss") == own.history(first, "val_loss")
    assert (run.data.params["rate"], run.data.tags["monitor"]) == ("0.5", "val_loss min")
    assert "tag.first" not in run.data.tags
    file, other = (own.artifacts(one) / "model/state.npz" for one in (run, first))
    assert file.samefile(other)
    names = [own.studies()[-1], first.info.run_id]
    loaded = own.python(f"""
        from src.utils.tracking import load_model

        print(*({{*load_model(name).weights}} for name in {names}), sep="\\n")
        """)[0].splitlines()
    assert loaded[0] == loaded[1]
    ((code, text),) = own.run_lines([[PROGRAM, "rate=0.1", "reuse=true"]], tmp_path)
    assert (code, SAME in text) == (0, False)


def test_equal_trials_of_one_sweep(own: SweepLab) -> None:
    """Of two equal trials of a sweep, with several objectives, too, the second reuses the first; without
    reuse=true the sweep says how many were equal to finished runs."""
    search = [*("case=two", "rate=0.5,0.5", "hydra.sweeper.n_jobs=1")]
    search.append("hydra.sweeper.direction=[minimize,minimize]")
    out = own.sweep(PROGRAM, *search, "reuse=true")
    first, second = finished(own.study())
    assert first.values == second.values
    assert f"reused {first.user_attrs['run_id'][:8]}" in out
    out = own.sweep(PROGRAM, *search)
    assert out.count(f"equal to {first.user_attrs['run_id'][:8]}") == 1
    assert "2 of them equal to finished runs: reuse=true takes the results of those" in out


def test_groups_are_reused(own: SweepLab, tmp_path: Path) -> None:
    """A finished group is returned whole; of another group those members that are finished are reused. It
    says how many they are."""
    whole = group(own)
    ((code, text),) = own.run_lines([[FOLDS, "folds=2", "reuse=true"]], tmp_path)
    assert (code, group(own).info.run_id) == (0, whole.info.run_id)
    assert f"│ run id   │ {whole.info.run_id} │" in text
    own.done(FOLDS, "folds=2", "seeds=2", "reuse=true")
    old, new = members(own, whole), members(own, group(own))
    assert [run.data.tags.get("reused_from") for run in new] == [
        old[0].info.run_id,
        None,
        old[1].info.run_id,
        None,
    ]
    same = [run.data.metrics["val_rmse"] for run in new[::2]]
    assert same == [run.data.metrics["val_rmse"] for run in old]
    assert len(own.runs(GROUPS)) == 1 + 3 + 5


def test_lightning(fresh: Lab) -> None:
    """A Lightning training is reused with its checkpoints, which lie on the disk once."""
    lab, first = SweepLab(fresh.root), fresh.newest()
    lab.sweep(MODEL, *QUICK, "dropout=0.25,0.25", "reuse=true")
    run = lab.client.get_run(finished(lab.study())[0].user_attrs["run_id"])
    assert run.data.tags["reused_from"] == first.info.run_id
    best, other = (lab.artifacts(one) / "checkpoints/best.ckpt" for one in (run, first))
    assert best.samefile(other)
    assert lab.history(run, "val_acc") == lab.history(first, "val_acc")


def test_what_counts(tmp_path: Path) -> None:
    """A signature depends on the content of the data, on the files under a path, and on the settings that
    have an effect."""
    file = tmp_path / "words.txt"
    file.write_text("one")

    class Config(Settings):
        words: Path = file

    def of(digest: str = "a", **values: Any) -> str:
        data = Manifest("feature/any", "", digest, {}, "")
        settings = Config(**{"seed": 0, "note": "", "tags": []} | values)
        return signature(Experiment("model", "none"), settings, [data], None)

    first = of()
    assert first == of(note="other", tags=["other"], stale="ignore", notify="true")
    assert len({first, of("b"), of(seed=1)}) == 3
    file.write_text("three")
    assert first != of()
