"""What tests of sweeps share: a laboratory with a toy model, and a look at its studies."""

import os
import pty
import shutil
import subprocess
import sys
import termios
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest
from conftest import NOT_INHERITED, Lab
from mlflow.entities import Run
from optuna.trial import FrozenTrial, TrialState

TOY = "src/model/model90/toy.py"
SETTINGS = """\
defaults:
  - /training
  - _self_

x: 0.5
y: middle
seconds: 0.0
end: value
"""


# Types command lines one after the other, each in a fork of a process that has imported what it takes.
FORKS = """
import os, runpy, sys, traceback
import src.utils.experiment, src.utils.runs.execute, src.utils.sweep.sweeper
for number, line in enumerate({lines!r}):
    pid = os.fork()
    if pid == 0:
        code, sys.argv = 0, line
        written = os.open(f"{folder}/{{number}}.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(written, 1), os.dup2(written, 2)
        try:
            runpy.run_path(line[0], run_name="__main__")
        except SystemExit as end:
            code = end.code
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code or 0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Terminal:
    """A process on a terminal, and all that it has written there."""

    def __init__(self, process: subprocess.Popen[bytes], screen: int) -> None:
        self.process, self.screen, self.text = process, screen, ""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # when the process has ended
            while written := os.read(self.screen, 4096):
                self.text += written.decode(errors="replace")
        os.close(self.screen)

    def end(self) -> int:
        """Wait until the process has ended; returns its exit code."""
        code = self.process.wait(120)
        self.reader.join(10)
        return code


@dataclass(frozen=True)
class SweepLab(Lab):
    """A laboratory whose sweeps are looked at."""

    def add_toy(self, name: str = "model90", settings: str = "") -> str:
        """Make the toy an experiment; returns its program."""
        source, config = self.root / "src/model" / name, self.root / "config/model" / name
        source.mkdir()
        config.mkdir()
        shutil.copy(Path(__file__).with_name("toy.py"), source)
        (config / "config.yaml").write_text(SETTINGS + settings)
        return f"src/model/{name}/toy.py"

    def begin(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        """A sweep, while it runs."""
        return self.start(sys.executable, self.root / program, "-m", *arguments)

    def on_terminal(self, columns: int, program: str, *arguments: str) -> "Terminal":
        """A sweep, while it runs on a terminal of so many columns."""
        ours, its = pty.openpty()
        termios.tcsetwinsize(its, (40, columns))
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(NOT_INHERITED)}
        process = subprocess.Popen(
            [sys.executable, self.root / program, "-m", *arguments],
            cwd=self.root,
            env=inherited | {"PYTHONPATH": str(self.root), "TERM": "xterm"},
            stdin=its,
            stdout=its,
            stderr=its,
            start_new_session=True,
        )
        os.close(its)
        return Terminal(process, ours)

    def sweep(self, program: str, *arguments: str, code: int = 0, **environment: str) -> str:
        """What a sweep printed, which must end with `code`, and without warnings or tracebacks."""
        done = self.run(program, "-m", *arguments, **environment)
        said = done.stdout + done.stderr
        assert done.returncode == code, said
        assert "Traceback" not in said
        assert "Warning" not in said
        return said

    def typed(self, lines: Sequence[Sequence[str]], folder: Path) -> list[tuple[int, str]]:
        """How each of many command lines that start nothing ends, and what it prints."""
        whole = [[str(self.root / program), *arguments] for program, *arguments in lines]
        codes = self.python(FORKS.format(lines=whole, folder=folder))[0].split()
        texts = [(folder / f"{number}.txt").read_text() for number in range(len(lines))]
        return list(zip(map(int, codes), texts, strict=True))

    @property
    def storage(self) -> str:
        return f"sqlite:///{self.root}/logs/optuna/optuna.db"

    def studies(self) -> list[str]:
        if not (self.root / "logs/optuna/optuna.db").exists():
            return []
        return optuna.get_all_study_names(self.storage)

    def study(self, name: str | None = None) -> optuna.Study:
        """By its name; None means the newest."""
        return optuna.load_study(study_name=name or self.studies()[-1], storage=self.storage)

    def parent(self, study: optuna.Study) -> Run:
        return self.client.get_run(study.user_attrs["run_id"])

    def children(self, study: optuna.Study) -> list[Run]:
        """The runs of a study's trials, the first one first."""
        parent = self.parent(study)
        query = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
        runs = self.client.search_runs([parent.info.experiment_id], query)
        return sorted(runs, key=lambda run: int(run.data.tags["optuna.trial"]))

    def at_work(self, number: int) -> list[Run]:
        """The runs of so many trials that are in their `main`; empty before there are so many."""
        if not self.studies() or "run_id" not in self.study().user_attrs:
            return []
        runs = [run for run in self.children(self.study()) if "pid" in run.data.tags]
        return runs if len(runs) == number else []

    def folders(self) -> list[Path]:
        """The folders that Hydra has made for trials."""
        return sorted(folder.parent for folder in self.root.glob("multirun/**/.hydra"))


@pytest.fixture(name="fresh_toys")
def a_fresh_one(clone: Lab, tmp_path: Path) -> SweepLab:
    """A laboratory with the toy model, for a test that counts what is left behind."""
    lab = SweepLab(clone.copied(tmp_path / "lab").root)
    lab.add_toy()
    return lab


def states(study: optuna.Study) -> Counter[str]:
    return Counter(trial.state.name for trial in study.trials)


def finished(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1]
