"""The fork server of a sweep: multiprocessing imports this module once, in the process that forks the jobs.

Everything slow happens here, so that no job has to wait for it:

- it imports MLflow, Optuna and the experiment's program with all that this imports, such as torch; Lightning
  only for a Lightning training;
- it reads the experiment's code and the state of git, which all trials then record, even if files are edited
  while the sweep runs;
- it uses once what is slow at the first use: Hydra's parser, matplotlib's fonts, the tables of both stores.

It starts no thread and keeps no file open, since a fork would inherit them.
"""

# ruff: noqa: E402  the garbage collector is off while all this is imported
import gc

gc.disable()

import atexit
import multiprocessing
import os
import signal
import string
from contextlib import suppress
from multiprocessing import spawn
from pathlib import Path

SWEEP = os.getppid()  # the process of the sweep


def exit_with_sweep(*_: object) -> None:
    """End when the sweep has ended, or was killed, while this process is still importing."""
    if os.getppid() != SWEEP:
        os._exit(1)


signal.signal(signal.SIGALRM, exit_with_sweep)
signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)

import src.utils.runs.execute
import src.utils.runs.interrupted
import src.utils.runs.resume
import src.utils.runs.reuse
import src.utils.runs.summary
import src.utils.runs.tracked
import src.utils.sweep.sweeper  # noqa: F401
from src.utils.config import composition
from src.utils.config.settings_class import read_settings_class
from src.utils.paths import Experiment
from src.utils.runs import provenance, signature
from src.utils.settings import TrainingSettings
from src.utils.store.location import local_database
from src.utils.store.mlflow import close_connections, open_store
from src.utils.sweep import job
from src.utils.sweep.launcher import PROGRAM

import optuna
import threadpoolctl  # noqa: F401  # jobs without torch limit their threads
from hydra.core.override_parser.overrides_parser import OverridesParser
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mlflow.store.tracking import sqlalchemy_store  # noqa: F401


def import_program(file: str) -> None:
    """Import the program as each job does, and read its code and its settings."""
    spawn.import_main_path(file)  # the preloading of `__main__` in Python itself has a bug
    settings_class = read_settings_class(Path(file))
    if settings_class is not None and issubclass(settings_class, TrainingSettings):
        import pytorch_lightning  # noqa: F401  # each job is seeded by it
    experiment = Experiment.of(file)
    if experiment is not None:
        signature.code_digest(experiment.source)
        provenance.git_state()
        compose_once(experiment)


def compose_once(experiment: Experiment) -> None:
    """Fill the caches of Hydra's parsers, with each of their rules and letters."""
    composition.default_values(experiment)
    word = string.ascii_letters + string.digits + "_"
    texts = (f"{word}/{word}=0.{string.digits}", f"+a.b='{word} | -'", f"c={word}-")
    parse = OverridesParser.create().parse_overrides
    parse([*texts, "d=1e-05", "e=[f,g]", "h={i:j}"])


def draw_once() -> None:
    """Let matplotlib find its fonts."""
    figure = Figure()
    figure.subplots().set_title("0 → 1")
    FigureCanvasAgg(figure).draw()  # type: ignore[no-untyped-call]


def open_stores_once() -> None:
    """Let SQLAlchemy map the tables, and close the SQLite files again before the first fork."""
    optuna.storages.RDBStorage("sqlite://").engine.dispose()
    database = local_database()
    if database is None or not database.exists():  # not created: a refused sweep writes nothing
        return
    with suppress(Exception):  # a job reports what is wrong with the store
        close_connections(open_store())


signal.signal(signal.SIGINT, signal.SIG_IGN)  # the sweep handles Ctrl-C
import_program(os.environ[PROGRAM])
job.START_METHOD = multiprocessing.get_start_method(allow_none=True)
draw_once()
open_stores_once()
signal.setitimer(signal.ITIMER_REAL, 0)  # multiprocessing ends the server from here on
signal.signal(signal.SIGALRM, signal.SIG_DFL)
gc.enable()
gc.freeze()  # jobs share this memory as long as nothing writes to it
atexit.register(gc.unfreeze)
