"""What the shell completes as arguments of `lab`: runs, experiments and stages.

It is called at each press of the Tab key: nothing here imports MLflow, and a store on a server is not asked.
"""

from collections.abc import Callable, Iterator

from src.utils.errors import UserError
from src.utils.store.location import local_database

MOST_RUNS = 20  # that are offered before anything is typed
SHOWN = 8  # characters of an id
WORDS = ("latest", "best")


def complete_run(incomplete: str) -> list[str]:
    """The references that begin with what is typed: words, names and ids of runs, the newest first."""
    return _matching(incomplete, _runs) if incomplete else [*WORDS, *_names(MOST_RUNS)]


def complete_experiment(incomplete: str) -> list[str]:
    """The experiments that begin with what is typed; stages, too."""
    return _matching(incomplete, _experiments)


def _matching(incomplete: str, candidates: Callable[[], Iterator[str]]) -> list[str]:
    found = dict.fromkeys(text for text in candidates() if text.startswith(incomplete))
    return list(found)


def _runs() -> Iterator[str]:
    yield from WORDS
    yield from _names()
    yield from (f"{name}/{word}" for name in _experiments() for word in WORDS)


def _names(most: int | None = None) -> Iterator[str]:
    """The names of the newest runs; of all runs the ids, too."""
    if local_database() is None:
        return
    from src.utils.store.reader import open_reader

    try:
        runs = open_reader().runs()
    except UserError:  # there are none yet, or the store can't be read
        return
    yield from dict.fromkeys(run.name for run in runs[:most])
    yield from (run.id[:SHOWN] for run in runs if most is None)


def _experiments() -> Iterator[str]:
    from src.utils.lab.new import list_experiments

    known = list_experiments()
    yield from (experiment.name for experiment in known)
    yield from map(str, known)
    yield from (experiment.stage for experiment in known)
