"""`lab tried`: whether something has been tried, and how it went."""

from src.utils.lab.filter import Filter
from src.utils.lab.tried import _distance

import pytest
from conftest import Lab
from laboratory import refused, said, typed
from scripted import NAME, document, scripted

__all__ = ["scripted"]


def answered(lab: Lab, *conditions: str, status: int = 0) -> str:
    """The first line of the answer."""
    done = typed(lab, "tried", *conditions)
    assert (done.returncode, done.stderr) == (status, "")
    return done.stdout.splitlines()[0]


def test_in_words(scripted: Lab) -> None:
    """The answer says how often, with the best run, and how many ended otherwise, and why."""
    tried = document(scripted, "tried", "rate=0.1", "hidden=64")
    best = tried["experiments"][0]["best_run"]
    line = answered(scripted, "rate=0.1", "hidden=64")
    assert line == f"tried once in {NAME}: val_score 0.0156 ({best[:8]})"
    killed = "2 killed, 1 failed: _ArrayMemoryError: Unable to allocate 71.1 PiB for an array…"
    assert answered(scripted, "hidden=128") == f"tried 3 times in {NAME}: {killed}"
    line = answered(scripted, "hidden=16")
    assert line.startswith(f"tried 4 times in {NAME}: best val_score 0.3635 (")
    assert line.endswith("), 2 pruned")


def test_table(scripted: Lab) -> None:
    """The runs follow, the best first, those that did not finish last, with the settings that differ."""
    found = document(scripted, "tried", "hidden>=16", "-e", "model94")["runs"]
    assert [run["status"] for run in found] == [
        *["finished"] * 4,
        *["pruned"] * 2,
        *["killed"] * 2,
        "failed",
    ]
    scores = [run["metrics"]["val_score"] for run in found[:4]]
    assert scores == sorted(scores)
    table = said(scripted, "tried", "hidden>=16", "-e", "model94", "--limit", "2")
    ids = [run["id"][:8] for run in found]
    assert [run_id in table for run_id in ids] == [True] * 2 + [False] * 7
    assert "rate=0.1 hidden=64" in table
    assert "2 of 9 runs" in table


def test_all_models(scripted: Lab) -> None:
    """Without -e the runs of all models are asked, each experiment with a line of its own."""
    text = said(scripted, "tried", "hidden=32")
    assert f"tried once in {NAME}: val_score" in text
    assert "tried once in model/model01: val_acc" in text
    assert "tried once in model/model01: val_acc" in said(scripted, "tried", "network=mlp")


def test_nearest(scripted: Lab) -> None:
    """What was not tried ends with 1 and shows the nearest runs, with what is other in them."""
    answer = document(scripted, "tried", "rate=0.3", "hidden=64", status=1)
    assert (answer["tried"], answer["runs"]) == (False, [])
    nearest = answer["nearest"]
    assert nearest[0]["differs"] == {"rate": 0.1}
    assert [near["distance"] for near in nearest] == sorted(near["distance"] for near in nearest)
    assert nearest[1]["differs"] == {"rate": 0.4, "hidden": 16}
    done = typed(scripted, "tried", "rate=0.3", "hidden=64")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0] == "not tried: rate=0.3 hidden=64"
    assert lines[4].split("  ")[0].strip() == "rate=0.1"
    assert f"val_score 0.0156 ({nearest[0]['best_run'][:8]})" in lines[4]


def test_lists_and_null(scripted: Lab) -> None:
    """Values may be typed as on the command line of a program: a list, null, true."""
    assert answered(scripted, "layers=[64,32]", "hidden=64").startswith("tried once")
    assert answered(scripted, "warm_start=null", "hidden=64").startswith("tried once")
    answered(scripted, "layers=[64]", status=1)


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        (["hiden=64"], "no run has a setting 'hiden': did you mean hidden?"),
        (["rate"], "rate is no condition: write rate=0.01, or a range in quotes, 'rate>0.01'"),
        (["val_score<1"], "val_score is a metric, not a setting"),
        (["hidden=64", "-e", "model95"], "there is no experiment 'model95'"),
        (["network=mlp", "-e", "model94"], "no run has a setting 'network'"),
    ],
)
def test_refused(scripted: Lab, conditions: list[str], message: str) -> None:
    """What is no setting is refused in one line, with the nearest name."""
    assert message in refused(scripted, "tried", *conditions)


@pytest.mark.parametrize(
    ("condition", "value", "distance"),
    [
        ("rate=0.01", "0.1", 1.0),
        ("rate>0.1", "0.001", 2.0),
        ("rate>0.1", "0.5", 0.0),
        ("rate>0.1", "0.1", 0.0),
        ("rate!=0.1", "0.1", 1.0),
        ("shift=-1", "1", 1.0),
        ("shift=0", "0.5", 1.0),
        ("network=mlp", "cnn", 1.0),
        ("network=mlp", "3", 1.0),
    ],
)
def test_distance(condition: str, value: str, distance: float) -> None:
    """Positive numbers are as far apart as their logarithms; another text counts like a factor of ten."""
    assert _distance(Filter.parse(condition), value) == pytest.approx(distance)
