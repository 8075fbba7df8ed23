"""How `lab` shows groups: one line with mean ± standard deviation, and the members on request."""

import json
import os
import re
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import pytest
from conftest import Lab, made_once
from groups import add, add_group, experiment_number
from laboratory import refused, said, typed
from test_leaderboard import Store
from test_plain_models import PROGRAM, add_logistic

FOLDS = [(fold, 0) for fold in range(5)]


class Shelf:
    """Groups by name, in a store that is written by hand, and `lab` typed there."""

    def __init__(self, folder: Path, place: Lab) -> None:
        self.store, self.place, self.ids = Store(folder / "mlflow.db"), place, {}
        random = np.random.default_rng(0)
        base = random.normal(0.9, 0.01, 5)
        for name, shift, noise in (
            ("better", 0.0, 0.0),
            ("alike", -0.0005, 0.003),
            ("worse", -0.02, 0.001),
        ):
            values = base + shift + noise * random.normal(size=5)
            scores = dict(zip(FOLDS, map(float, values), strict=True))
            self.ids[name] = add_group(
                self.store, name, scores, params={"rate": shift}, oof_score=0.91
            )
        self.values = {name: self.scores(name) for name in self.ids}
        self.ids["alone"] = self.store.add(
            "model/one", "alone", {"val_acc": 0.7}, monitor="val_acc max"
        )
        seeds = {(0, 0): 0.5, (0, 1): 0.6, (0, 2): None}
        self.ids["broken"] = add_group(self.store, "broken", seeds, folds=1, experiment="model/two")
        self.store.client.set_tag(self.ids["broken"], "group.members", "4")
        both = {(fold, seed): fold + seed / 10 for fold in range(3) for seed in range(2)}
        names = {"metric": "val_loss", "monitor": "val_loss min", "experiment": "model/three"}
        self.ids["both"] = add_group(self.store, "both", both, folds=3, **names)

    def scores(self, name: str) -> list[float]:
        return [run.data.metrics["val_acc"] for run in self.members(name)]

    def members(self, name: str) -> list:
        number = self.store.client.get_run(self.ids[name]).info.experiment_id
        found = self.store.client.search_runs(
            [number], f"tags.`group.run_id` = '{self.ids[name]}'", order_by=["start_time ASC"]
        )
        return list(found)

    def say(self, *command: str, **environment: str) -> str:
        return said(self.place, *command, MLFLOW_TRACKING_URI=self.store.uri, **environment)

    def shown(self, reference: str) -> str:
        return str(json.loads(self.say("show", reference, "--json"))["id"])

    def line(self, table: str, name: str) -> str:
        (line,) = [line for line in table.splitlines() if line.split()[:1] == [name]]
        return line


@pytest.fixture(name="shelf", scope="module")
def a_shelf(clone: Lab, tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("groups"), clone)


def test_one_line(shelf: Shelf) -> None:
    """A group is one line with mean ± sd (n), its standard deviation is no column, and members are listed on
    request. No line is longer than the terminal is wide."""
    values = shelf.values["worse"]
    for columns in ("60", "80", "120"):
        table = shelf.say("runs", "-e", "one", COLUMNS=columns)
        assert max(map(len, table.splitlines())) <= int(columns)
        assert f"{fmean(values):.4f}" in shelf.line(table, "worse")
        assert "val_acc_sd" not in table
        assert "fold 2" not in table
        assert "4 runs · --members lists" in table
    assert f"{fmean(values):.4f} ± {stdev(values):.4f} (5)" in shelf.line(table, "worse")
    assert "oof_score" in table
    assert "19 runs" in shelf.say("runs", "-e", "one", "--members")
    members = shelf.say("runs", "-e", "one", "--where", "group=worse")
    assert "5 runs" in members
    assert "fold=2" in members
    assert "3 runs" in shelf.say("runs", "-e", "one", "--where", "fold=2")


def test_like_the_best(shelf: Shelf) -> None:
    """A leaderboard marks the groups that can't be told from the best one, and says so below; nothing else
    imports SciPy."""
    for by in ("val_acc", "-val_acc"):
        table = shelf.say("runs", "-e", "one", "--sort", by)
        marked = [name for name in ("better", "alike", "worse") if "≈" in shelf.line(table, name)]
        assert marked == ["alike"]
        assert "≈ can't be told from the best group" in table
    assert "≈" not in shelf.say("runs", "-e", "one", "--sort", "rate")
    environment = {"MLFLOW_TRACKING_URI": shelf.store.uri}
    code = "import sys; from src.utils.lab.cli import app; sys.argv[1:] = ['runs', '-e', 'one']\n"
    code += "try: app()\nfinally: print({'scipy', 'mlflow'} & {*sys.modules})"
    assert shelf.place.python(code, **environment)[0].endswith("set()\n")


def test_json(shelf: Shelf) -> None:
    """--json has the ids of a group's members, the means, standard deviations and their number."""
    found = {run["name"]: run for run in json.loads(shelf.say("runs", "-e", "one", "--json"))}
    group, values = found["alike"]["group"], shelf.values["alike"]
    assert group["members"] == [run.info.run_id for run in shelf.members("alike")]
    assert (group["n"], group["mean"], group["sd"]) == (
        5,
        {"val_acc": pytest.approx(fmean(values))},
        {"val_acc": pytest.approx(stdev(values))},
    )
    assert "group" not in found["alone"]
    assert len(found) == 4


def test_tried(shelf: Shelf) -> None:
    """A group is one try, whose result is its mean with the standard deviation."""
    text = shelf.say("tried", "rate<=0", "-e", "one").splitlines()[0]
    values, short = shelf.values["better"], shelf.ids["better"][:8]
    best = f"{fmean(values):.4f} ± {stdev(values):.4f} (5) ({short})"
    assert text == f"tried 3 times in model/one: best val_acc {best}"


def test_verdict_in_json(shelf: Shelf) -> None:
    """A program gets the verdict between two groups as the id of the better one, or null."""
    found = json.loads(shelf.say("diff", "better", "worse", "--json"))["verdict"]
    assert (found["better"], found["metric"]) == (shelf.ids["better"], "val_acc")
    assert json.loads(shelf.say("diff", "better", "alike", "--json"))["verdict"]["better"] is None
    other = json.loads(shelf.say("diff", "better", "alone", "--json"))["verdict"]
    assert (other["better"], "alone" in other["text"]) == (None, True)


def test_show(shelf: Shelf) -> None:
    """A group shows its members, with the reason of those that failed, how many are missing, and how it is
    resumed; a member names its group."""
    text = shelf.say("show", "better")
    values = shelf.values["better"]
    assert f"val_acc {fmean(values):.4f} ± {stdev(values):.4f} (5)   oof_score 0.9100" in text
    for run, value in zip(shelf.members("better"), values, strict=True):
        row = f"{run.info.run_id[:8]}  {run.info.run_name}  finished  val_acc {value:.4f}"
        assert row in text
    assert "lab diff better …" in text
    broken = shelf.say("show", "broken")
    assert re.search(r"seed 2  failed +no memory", broken)
    assert "3 of 4 have begun" in broken
    assert f"lab resume {shelf.ids['broken'][:8]}" in broken
    assert f"fold 2 seed 0 of the group better {shelf.ids['better'][:8]}" in shelf.say(
        "show", "better/2"
    )


def test_references(shelf: Shelf) -> None:
    """The best run of an experiment is never a member, the newest neither; both are found in their group, and
    a member by its fold or seed."""
    members = [run.info.run_id for run in shelf.members("better")]
    assert shelf.shown("one/best") == shelf.ids["better"]
    assert shelf.shown("best") == shelf.shown("latest") == shelf.ids["both"]
    assert shelf.shown("better/best") == members[int(np.argmax(shelf.values["better"]))]
    assert shelf.shown("better/latest") == members[-1]
    assert shelf.shown(f"{shelf.ids['better'][:8]}/3") == shelf.shown("one/best/3") == members[3]
    assert shelf.shown("broken/1") == shelf.members("broken")[1].info.run_id
    for reference, reason in (
        ("better/7", "has no member 7: it has fold 0 seed 0 to fold 4 seed 0"),
        ("both/1", "(both fold 1 seed 0)"),
        ("two/best", "no finished run"),
    ):
        assert reason in refused(
            shelf.place, "show", reference, MLFLOW_TRACKING_URI=shelf.store.uri
        )


def test_diary(shelf: Shelf, bare: Lab) -> None:
    """In the diary a group is a line with mean ± sd (n), the best run is no member, and no member that failed
    is listed beside its group."""
    text = said(bare, "diary", MLFLOW_TRACKING_URI=shelf.store.uri)
    values = shelf.values["better"]
    (row,) = [line for line in text.splitlines() if f"| {shelf.ids['better'][:8]}" in line]
    assert f"| {fmean(values):.4f} ± {stdev(values):.4f} (5) |" in row
    assert "| 5 folds " in row
    assert f"- best: {shelf.ids['better'][:8]} (better), val_acc {fmean(values):.4f} ± " in text
    assert "Runs so far: 6 (5 finished, 1 failed)" in text
    assert not [run for run in shelf.members("broken") if run.info.run_id[:8] in text]


def test_doctor(shelf: Shelf) -> None:
    """A group is ended when its process is gone, and so are its members."""
    store, gone = shelf.store, f"{os.uname().nodename} 1 1"  # a process that began at another time
    number = experiment_number(store, "model/gone")
    group = add(store, number, "gone", "RUNNING", {"group.members": 2, "process": gone}, {}, {})
    tags = {"group.run_id": group, "group.fold": 0, "process": gone}
    member = add(store, number, "fold 0", "RUNNING", tags, {}, {})
    for run_id in (group, member):
        store.client.update_run(run_id, status="RUNNING")
    environment = {"MLFLOW_TRACKING_URI": store.uri}
    found = typed(shelf.place, "doctor", **environment).stdout
    assert f"{member[:8]} (its process is gone)" in found
    assert f"{group[:8]} (its process is gone)" in found
    typed(shelf.place, "doctor", "--fix", **environment)
    assert {store.client.get_run(one).info.status for one in (group, member)} == {"KILLED"}
    for run_id in (group, member):
        store.client.delete_run(run_id)


HOLD_OUT = """\
    held_out = np.arange(SAMPLES) % 3 == run.fold
    train, val = ~held_out, held_out
    if os.environ.get("FAIL") == str(run.fold):
        raise ValueError("no luck")
"""


@pytest.fixture(scope="session")
def grouped(shared: Path, clone: Lab) -> Lab:
    """A laboratory with two finished groups of a logistic regression. To be read only."""

    def make(lab: Lab) -> None:
        clone.copied(lab.root)
        add_logistic(lab)
        program = lab.root / PROGRAM
        split = "    train, val = slice(SAMPLES // 2), slice(SAMPLES // 2, None)\n"
        assert split in program.read_text()
        program.write_text(program.read_text().replace(split, HOLD_OUT))
        lab.git("commit", "--quiet", "--all", "--message=Folds")
        lab.done(PROGRAM, "folds=3", "rate=0.1")
        lab.done(PROGRAM, "folds=3")

    return made_once(shared / "grouped", make)


def test_real_groups(grouped: Lab) -> None:
    """Groups that were run are lines of the leaderboard, sections of `lab show`, and sides of a verdict."""
    table = json.loads(said(grouped, "runs", "--json", "--sort", "val_loss"))
    assert [run["params"]["rate"] for run in table] == [0.5, 0.1]
    best, other = table
    assert best["group"]["n"] == len(best["group"]["members"]) == 3
    assert re.search(r"fold 2 +finished  val_loss 0\.\d{4}", said(grouped, "show", best["id"]))
    assert f"fold 1 seed 0 of the group {best['name']}" in said(
        grouped, "show", f"{best['name']}/1"
    )
    verdict = said(grouped, "diff", other["id"], best["id"], COLUMNS="160")
    assert re.search(rf"{best['name']} is better: -0.38.. ± 0.1... val_loss over 3 pairs", verdict)


def test_rerun(grouped: Lab, tmp_path: Path) -> None:
    """A group is repeated whole, and its weights are compared member by member."""
    own = grouped.copied(tmp_path / "own")
    group = json.loads(said(own, "show", "latest", "--json"))
    text = said(own, "rerun", group["name"], COLUMNS="160")
    assert "weights: bit-identical in 3 of 3 members" in text
    assert "verdict: identical" in text
    again = json.loads(said(own, "show", "latest", "--json"))
    assert again["tags"]["rerun_of"] == group["id"]
    assert len(again["group"]["members"]) == 3


def test_resume(grouped: Lab, tmp_path: Path) -> None:
    """A group with a failed member is resumed from its id; the members that had finished stay as they are."""
    own = grouped.copied(tmp_path / "own")
    assert own.run(PROGRAM, "folds=3", FAIL="1").returncode != 0
    text = said(own, "show", "latest", COLUMNS="160")
    assert re.search(r"fold 1 +failed +ValueError: no luck", text)
    found = re.search(r"lab resume (\w+)", text)
    assert found is not None
    before = json.loads(said(own, "show", "latest/0", "--json"))
    assert typed(own, "resume", found[1]).returncode == 0
    assert json.loads(said(own, "show", "latest/0", "--json")) == before
    group = json.loads(said(own, "show", found[1], "--json"))
    assert (group["status"], group["group"]["n"]) == ("finished", 3)
    assert "nothing to remove" in said(own, "gc")
