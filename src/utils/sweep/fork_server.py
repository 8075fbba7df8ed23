"""What a sweep's fork server does once, so that no job has to: it imports, sees what code this is, and
uses for the first time what is slow only then. It starts no thread, and keeps no file open.
"""

# ruff: noqa: E402  the garbage collector rests while all this is imported
import gc

gc.disable()

import atexit
import multiprocessing
import os
import signal
import string
from multiprocessing import spawn

SWEEP = os.getppid()


def leave_with_sweep(*_: object) -> None:
    """A sweep that was refused, or killed, while this was still importing."""
    if os.getppid() != SWEEP:
        os._exit(1)


signal.signal(signal.SIGALRM, leave_with_sweep)
signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)

import src.utils.runs.execute
import src.utils.sweep.sweeper
import src.utils.tracking  # noqa: F401
from src.utils.config import composition
from src.utils.paths import Experiment
from src.utils.runs import provenance
from src.utils.runs import source_code as snapshot
from src.utils.store import mlflow as store
from src.utils.store.location import local_database
from src.utils.sweep import job
from src.utils.sweep.launcher import PROGRAM

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mlflow.store.tracking import sqlalchemy_store  # noqa: F401


def import_program(file: str) -> None:
    """As jobs do it; theirs is the code of now, whatever is edited while the sweep runs."""
    spawn.import_main_path(file)  # Python's own preloading has a bug
    experiment = Experiment.of(file)
    if experiment is not None:
        snapshot.source_files(experiment.source)
        provenance.git_state()
        compose(experiment)


def compose(experiment: Experiment) -> None:
    """Hydra's grammars are slow until they have seen each of their rules and letters."""
    composition.default_values(experiment)
    word = string.ascii_letters + string.digits + "_"
    texts = (f"{word}/{word}=0.{string.digits}", f"+a.b='{word} | -'", f"c={word}-")
    parse = OverridesParser.create().parse_overrides
    parse([*texts, "d=1e-05", "e=[f,g]", "h={i:j}"])


def draw_once() -> None:
    """Fonts have to be found."""
    figure = Figure()
    figure.subplots().set_title("0 → 1")
    FigureCanvasAgg(figure).draw()  # type: ignore[no-untyped-call]


def open_stores_once() -> None:
    """Tables have to be mapped; SQLite's files must be closed again before the first fork."""
    optuna.storages.RDBStorage("sqlite://").engine.dispose()
    database = local_database()
    if database is not None and database.exists():  # a search that is refused makes none
        store.open_store()._tracking_client.store.engine.dispose()


signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the sweep to handle
import_program(os.environ[PROGRAM])
job.START_METHOD = multiprocessing.get_start_method(allow_none=True)
draw_once()
open_stores_once()
signal.setitimer(signal.ITIMER_REAL, 0)  # from here on Python's own server watches
signal.signal(signal.SIGALRM, signal.SIG_DFL)
gc.enable()
gc.freeze()  # jobs share this memory as long as nothing writes to it
atexit.register(gc.unfreeze)
