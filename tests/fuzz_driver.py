"""Reads command lines from a file, one a line as JSON, and says of each what a program makes of it.

    python tests/fuzz_driver.py PROGRAM TYPED SCRATCH

Each is tried in a fork of this process, which has imported all that is slow, by running the program's file
as Python would; what it would then train, build or search is left out. Printed for each, as JSON:
[exit status, stdout, stderr, files written].
"""

import json
import os
import runpy
import sys
import traceback
import types
from pathlib import Path

import src.utils.training  # noqa: F401  it imports torch, Lightning and MLflow
from src.utils.config import composition
from src.utils.paths import ROOT, Experiment
from src.utils.runs import execute
from src.utils.sweep import launcher, sweeper

from hydra.core.override_parser.overrides_parser import OverridesParser

WATCHED = ("logs", "outputs", "multirun", "_data")


def written() -> dict[str, float]:
    """The files that runs write."""
    found = (path for top in WATCHED for path in (ROOT / top).rglob("*") if path.is_file())
    ours = (path for path in found if not path.name.endswith(("-wal", "-shm", ".lock")))
    return {str(path): path.stat().st_mtime_ns for path in ours}


def run(program: Path, arguments: list[str]) -> None:
    """What `python program …` does, as far as `main`."""
    for name in [name for name in sys.modules if name == "src.utils.experiment"]:
        del sys.modules[name]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    main.__file__ = str(program)
    sys.argv = [str(program), *arguments]
    execute.execute = lambda *_: print("accepted")
    launcher.start_fork_server = lambda: None
    sweeper.SearchSweeper.sweep = lambda self, arguments: print("accepted")
    runpy.run_path(str(program), run_name="__main__")


def forked(program: Path, arguments: list[str], place: Path) -> tuple[int, str, str]:
    """Its exit status and what it printed."""
    files = [place / "stdout", place / "stderr"]
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for number, file in enumerate(files, 1):
                os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            run(program, arguments)
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(ended), *(file.read_text() for file in files)


def main() -> None:
    """Fills Hydra's grammar once, which is slow until then, and answers."""
    program, typed, place = map(Path, sys.argv[1:])
    here = Experiment.of(program)
    assert here is not None
    composition.compose_config(here, [])
    OverridesParser.create().parse_overrides(["a=1,2", "b=range(1,3)", "c='x'", "d=[1,{a:b}]"])
    for line in typed.read_text().splitlines():
        before = written()
        status, out, err = forked(program, json.loads(line), place)
        new = sorted(name for name, time in written().items() if before.get(name) != time)
        print(json.dumps([status, out, err, new]), flush=True)


if __name__ == "__main__":
    main()
