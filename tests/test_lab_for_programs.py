"""`lab` as programs use it: exit statuses and --json, as docs/lab.md has them."""

import json
import math
import os
import re
import signal
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from src.utils.lab.cli import lab as app
from src.utils.lab.commands.declaration import as_json
from src.utils.paths import ROOT

import pytest
import typer
from conftest import Lab
from laboratory import typed
from scripted import ENDS, NAME, document, scripted

__all__ = ["scripted"]
PAGE = (ROOT / "docs" / "lab.md").read_text()
COMMANDS = typer.main.get_group(app).commands
INTERRUPTED = """
    import os, signal
    from src.utils.lab import cli
    cli.lab = lambda **_: os.kill(os.getpid(), signal.{name})
    cli.app()
"""


def rows(heading: str) -> Iterator[list[str]]:
    """The rows of the table below a heading of the page."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    for line in re.findall(r"^\|(.*)\|$", section, re.MULTILINE)[2:]:
        yield [cell.strip() for cell in line.split("|")]


def documented_keys(command: str) -> set[str]:
    """The keys that the page says a command's document has."""
    found = {name: keys for names, keys in rows("JSON") for name in re.findall(r"`(\w+)`", names)}
    keys = {*re.findall(r"`(\w+)`", found[command])}
    return keys | documented_keys("runs") if command in ("show", "best", "resume") else keys


@pytest.fixture(name="own", scope="module")
def an_own_one(scripted: Lab, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A copy of the laboratory that these tests may change."""
    return scripted.copied(tmp_path_factory.mktemp("programs") / "own")


def newest(lab: Lab, status: str = "finished") -> dict[str, Any]:
    """The newest run of the experiment with this status."""
    runs: list[dict[str, Any]] = document(lab, "runs", "-e", NAME, "--where", f"status={status}")
    return next(run for run in runs if "optuna.study" not in run["tags"])


def test_statuses_of_lab(scripted: Lab) -> None:
    """The examples of the page end with the status beside them, and Ctrl-C with its own."""
    examples = {
        int(status): re.findall("`lab (.*?)`", last) for status, *_, last in rows("Exit status")
    }
    assert {status for status, commands in examples.items() if commands} == {0, 1, 2}
    for status, commands in examples.items():
        for command in commands:
            assert typed(scripted, *command.split()).returncode == status, command
    for name, status in (("SIGINT", 130), ("SIGTERM", -signal.SIGTERM)):
        process = scripted.start(
            sys.executable, "-c", re.sub("(?m)^    ", "", INTERRUPTED).format(name=name)
        )
        process.communicate(timeout=60)
        assert process.returncode == status
    assert typed(scripted).returncode == 2  # the help, since a command is missing
    assert typed(scripted, "--help").returncode == 0


def test_statuses_of_programs() -> None:
    """The page has each status with which a program has ended (`scripted` checks that they do).

    It also has that of SIGKILL, and that of a worker that wants to be started again.
    """
    assert {int(status) for status, *_ in rows("Exit status")} == {*ENDS.values(), 137, 75}


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command(command: str) -> None:
    """Each command of lab has the option --json, and the page has its keys."""
    options = [option for parameter in COMMANDS[command].params for option in parameter.opts]
    assert "--json" in options
    assert documented_keys(command)


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("runs -e model94 --sort val_score", 0),
        ("show model94/best", 0),
        ("best model94", 0),
        ("diff model94/best model01/best --full", 0),
        ("tried hidden=16", 0),
        ("tried hidden=17", 1),
        ("gc", 0),
    ],
)
def test_questions(scripted: Lab, command: str, status: int) -> None:
    """A question is answered by one document with the keys of the page, and nothing on stderr."""
    found = document(scripted, *command.split(), status=status)
    first = found[0] if isinstance(found, list) else found
    assert {*first} == documented_keys(command.split(maxsplit=1)[0])


def test_values(scripted: Lab) -> None:
    """Numbers are numbers, NaN is null, times have a zone, and paths begin at the root of the project."""
    run = document(scripted, "best", "model94")
    assert run["params"]["layers"] == [64, 32]
    assert (run["params"]["rate"], run["params"]["warm_start"]) == (0.1, None)
    assert run["metrics"]["noise"] is None
    assert datetime.fromisoformat(run["started"]).tzinfo
    assert (scripted.root / run["artifacts"] / run["files"][0]).is_file()
    assert not Path(run["artifacts"]).is_absolute()


def test_differences(scripted: Lab) -> None:
    """A difference has both values; None stands for a run that lacks it."""
    found = document(scripted, "diff", "model94/best", "model01/best")
    settings = found["differences"]["settings"]
    assert settings["hidden"] == [64, 32]
    assert settings["network"] == [None, "mlp"]
    assert all(len(digest) == 32 for _, digest in found["differences"]["data"].values())
    assert found["source"] is None  # of two experiments: with --full alone


def test_errors(scripted: Lab) -> None:
    """A mistake leaves stdout empty, and is one line on stderr."""
    for command in ("show nowhere", "runs --where", "tried rat=1", "diff latest", "nothing"):
        done = typed(scripted, *command.split(), "--json")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1


def test_no_terminal(own: Lab) -> None:
    """A question that nobody can answer is a mistake, not Ctrl-C."""
    done = typed(own, "new")
    assert done.returncode == 2
    assert "error: no terminal to answer from" in done.stderr


def test_repeating(own: Lab) -> None:
    """A rerun prints its verdict, what the program prints goes to stderr, and scores of a competition don't
    count."""
    run = newest(own)
    stored = document(own, "submitted", run["id"], "--public", "0.5", "--private", "0.25")
    assert stored == {"run": run["id"], "public_score": 0.5, "private_score": 0.25}
    assert {*stored} == documented_keys("submitted")
    found = document(own, "rerun", run["id"], error=None)
    assert {*found} == documented_keys("rerun")
    assert (found["run"], found["verdict"]) == (run["id"], "identical")
    assert found["metrics"].keys() >= {"val_score"}


def test_resuming(own: Lab) -> None:
    """A resumed run is shown when its program has ended, with its status; the program tells a refusal."""
    killed = newest(own, "killed")
    found = document(own, "resume", killed["id"], status=143, error=None)
    assert {*found} == documented_keys("resume")
    assert (found["id"], found["status"]) == (killed["id"], "killed")
    done = typed(own, "resume", newest(own)["id"], "--json")
    assert (done.returncode, done.stdout) == (2, "")


def test_competition(own: Lab) -> None:
    """A blend and a submission say what was made, by whole ids and paths."""
    first, second = document(own, "tried", "end=value", "-e", NAME)["runs"][:2]
    blend = document(own, "blend", first["id"], second["id"], "--method", "mean")
    assert {*blend} == documented_keys("blend")
    assert [one["run"] for one in blend["blended"]] == [first["id"], second["id"]]
    assert document(own, "show", blend["run"])["metrics"]["oof_score"] == blend["oof_score"]
    made = document(own, "submit", blend["run"])
    assert {*made} == documented_keys("submit")
    assert made["rows"] == len((own.root / made["file"]).read_text().splitlines()) - 1


def test_housekeeping(own: Lab) -> None:
    """The diary names its page, and gc lists without asking and removes with --yes alone."""
    page = document(own, "diary")
    assert {*page} == documented_keys("diary")
    assert page["report"] in (own.root / page["page"]).read_text()
    folder = own.root / "logs/mlruns/model/model94" / ("0" * 32)
    folder.mkdir()
    (folder / "x").write_text("x")
    old = datetime(2020, 1, 1).timestamp()
    for path in (folder / "x", folder):
        os.utime(path, (old, old))
    found = document(own, "gc")
    name = str(folder.relative_to(own.root))
    assert (found["removed"], [one["path"] for one in found["unused"]]) == (False, [name])
    assert folder.is_dir()
    assert document(own, "gc", "--yes")["removed"]
    assert not folder.exists()


def test_problems(own: Lab) -> None:
    """A problem that doctor finds has a level, a text and a fix, and the status 1."""
    run = next(run for run in own.runs(NAME) if run.info.status == "KILLED")
    own.client.update_run(run.info.run_id, "RUNNING")
    found = document(own, "doctor", status=1)
    (bad,) = [one for one in found if one["level"] == "bad"]
    assert run.info.run_id[:8] in bad["text"]
    assert bad["fix"].endswith("lab doctor --fix")
    assert {*bad} == documented_keys("doctor")
    own.client.update_run(run.info.run_id, "KILLED")


def test_new(own: Lab) -> None:
    """A new experiment is named, with its program."""
    found = document(own, "new", "model95", "--from", "model94")
    assert {*found} == documented_keys("new")
    assert found["experiment"] == "model/model95"
    assert (own.root / found["program"]).is_file()


def test_numbers_that_json_lacks() -> None:
    """NaN and infinity are null, wherever they stand."""
    data = {"a": math.nan, "b": [math.inf, (1.5, ROOT / "docs")], 3: {"c": -math.inf}}
    assert json.loads(as_json(data)) == {"a": None, "b": [None, [1.5, "docs"]], "3": {"c": None}}
