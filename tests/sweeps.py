"""Shared by the tests of sweeps: a laboratory with the toy experiment (toy.py), and access to its studies."""

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

# Runs command lines one after the other, each in a fork of one process that has all the imports.
RUN_LINES = """
import os, runpy, sys, traceback
import src.utils.experiment, src.utils.runs.execute, src.utils.sweep.sweeper
for number, line in enumerate({lines!r}):
    pid = os.fork()
    if pid == 0:
        code, sys.argv = 0, line
        output = os.open(f"{folder}/{{number}}.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1), os.dup2(output, 2)
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
    """A process on a terminal, and its output."""

    def __init__(self, process: subprocess.Popen[bytes], screen: int) -> None:
        self.process, self.screen, self.text = process, screen, ""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # when the process has ended
            while output := os.read(self.screen, 4096):
                self.text += output.decode(errors="replace")
        os.close(self.screen)

    def end(self) -> int:
        """Wait until the process has ended; returns its exit code."""
        code = self.process.wait(120)
        self.reader.join(10)
        return code


@dataclass(frozen=True)
class SweepLab(Lab):
    """A laboratory with its sweeps and studies."""

    def add_toy(self, name: str = "model90", settings: str = "") -> str:
        """Add the toy as an experiment; returns the path of its program."""
        source, config = self.root / "src/model" / name, self.root / "config/model" / name
        source.mkdir()
        config.mkdir()
        shutil.copy(Path(__file__).with_name("toy.py"), source)
        (config / "config.yaml").write_text(SETTINGS + settings)
        return f"src/model/{name}/toy.py"

    def start_sweep(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a sweep."""
        return self.start(sys.executable, self.root / program, "-m", *arguments)

    def start_on_terminal(self, columns: int, program: str, *arguments: str) -> Terminal:
        """Start a sweep on a terminal of that width."""
        return self.type_on_terminal(columns, sys.executable, self.root / program, "-m", *arguments)

    def type_on_terminal(self, columns: int, *command: str | Path) -> Terminal:
        """Start a command on a terminal of that width."""
        screen, terminal = pty.openpty()
        termios.tcsetwinsize(terminal, (40, columns))
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(NOT_INHERITED)}
        process = subprocess.Popen(
            command,
            cwd=self.root,
            env=inherited | {"PYTHONPATH": str(self.root), "TERM": "xterm"},
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        )
        os.close(terminal)
        return Terminal(process, screen)

    def sweep(self, program: str, *arguments: str, code: int = 0, **environment: str) -> str:
        """Run a sweep; returns its output. It must end with `code`, without warnings and tracebacks."""
        result = self.run(program, "-m", *arguments, **environment)
        output = result.stdout + result.stderr
        assert result.returncode == code, output
        assert "Traceback" not in output, output
        assert "Warning" not in output, output
        return output

    def run_lines(
        self, lines: Sequence[Sequence[str]], folder: Path, **environment: str
    ) -> list[tuple[int, str]]:
        """Run many command lines that start no process; returns the exit code and the output of each."""
        commands = [[str(self.root / program), *arguments] for program, *arguments in lines]
        code = RUN_LINES.format(lines=commands, folder=folder)
        codes = self.python(code, **environment)[0].split()
        texts = [(folder / f"{number}.txt").read_text() for number in range(len(lines))]
        return list(zip(map(int, codes), texts, strict=True))

    @property
    def storage(self) -> str:
        return f"sqlite:///{self.root}/logs/optuna/optuna.db"

    def studies(self) -> list[str]:
        """The names of all studies, the newest last."""
        if not (self.root / "logs/optuna/optuna.db").exists():
            return []
        return optuna.get_all_study_names(self.storage)

    def study(self, name: str | None = None) -> optuna.Study:
        """Load a study; None means the newest."""
        return optuna.load_study(study_name=name or self.studies()[-1], storage=self.storage)

    def study_run(self, study: optuna.Study) -> Run:
        """The parent run of a study."""
        return self.client.get_run(study.user_attrs["run_id"])

    def trial_runs(self, study: optuna.Study) -> list[Run]:
        """The runs of a study's trials, by number."""
        parent = self.study_run(study)
        query = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
        runs = self.client.search_runs([parent.info.experiment_id], query)
        return sorted(runs, key=lambda run: int(run.data.tags["optuna.trial"]))

    def running_trials(self, number: int) -> list[Run]:
        """The runs of trials that have reached `main`; empty unless there are exactly so many."""
        if not self.studies() or "run_id" not in self.study().user_attrs:
            return []
        runs = [run for run in self.trial_runs(self.study()) if "pid" in run.data.tags]
        return runs if len(runs) == number else []

    def trial_folders(self) -> list[Path]:
        """The output folders of all trials."""
        return sorted(folder.parent for folder in self.root.glob("multirun/**/.hydra"))


@pytest.fixture(name="fresh_toys")
def create_fresh_toys(clone: Lab, tmp_path: Path) -> SweepLab:
    """A laboratory with the toy experiment, for a test that counts files, studies or runs."""
    lab = SweepLab(clone.copied(tmp_path / "lab").root)
    lab.add_toy()
    return lab


def states(study: optuna.Study) -> Counter[str]:
    """How many trials are in each state."""
    return Counter(trial.state.name for trial in study.trials)


def finished(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1]
