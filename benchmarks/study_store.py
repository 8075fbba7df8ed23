"""The study store under load: eight processes run trials that report to a pruner and end at once.

    .venv/bin/python benchmarks/study_store.py [TRIALS] [PROCESSES]      # 200 each of 8

Compared are the default (SQLite in WAL mode whose transactions take the lock when they begin), SQLite as
Optuna opens it, and Optuna's journal file. Nothing may be lost: each value is known from the trial's
number, and is counted afterwards. On two cores that other programs wanted too, 1600 trials in all:

    SQLite, ours     289 s   181 ms a trial   0 lost   4.9 MiB   2.1 s to open and read it again
    SQLite, plain    367 s   229 ms a trial   0 lost   0.8 MiB   1.1 s
    journal file      51 s    32 ms a trial   0 lost   1.9 MiB   0.2 s

A trial here is a dozen transactions and no work. SQLite stays the default: its storage has the heartbeats
by which a sweep notices that another machine's has died, and a process reads only the study that it works
on, where a journal with all studies is read from its first line by the process of each trial.
"""

import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

from src.utils.study.storage import open_storage

import optuna
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

STEPS = 5  # reports a trial
STORES = {
    "SQLite, ours": lambda folder: open_storage(f"sqlite:///{folder}/ours.db"),
    "SQLite, plain": lambda folder: RDBStorage(f"sqlite:///{folder}/plain.db"),
    "journal file": lambda folder: JournalStorage(JournalFileBackend(f"{folder}/journal.log")),
}


def objective(trial: optuna.Trial) -> float:
    """Its value, and what it reports, follow from its number."""
    trial.suggest_float("x", 0, 1)
    for step in range(1, STEPS + 1):
        trial.report(trial.number * step, step)
        trial.should_prune()
    return trial.number


def work(store: str, folder: str, trials: int, failures) -> None:
    """One process's part."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        sampler, pruner = optuna.samplers.RandomSampler(), optuna.pruners.MedianPruner()
        study = optuna.load_study(
            study_name="bench", storage=STORES[store](folder), sampler=sampler, pruner=pruner
        )
        study.optimize(objective, n_trials=trials)
    except Exception as error:
        failures.put(f"{type(error).__name__}: {error}".splitlines()[0][:90])


def measure(store: str, trials: int, processes: int) -> None:
    """Print one line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        study = optuna.create_study(study_name="bench", storage=STORES[store](folder))
        failures = multiprocessing.Queue()
        part = (store, folder, trials, failures)
        workers = [multiprocessing.Process(target=work, args=part) for _ in range(processes)]
        began = time.monotonic()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        seconds = time.monotonic() - began
        done = [trial for trial in study.get_trials() if trial.values == [trial.number]]
        whole = [trial for trial in done if len(trial.intermediate_values) == STEPS]
        total = trials * processes
        errors = [] if failures.empty() else [failures.get()]
        size = sum(file.stat().st_size for file in Path(folder).iterdir()) / 2**20
        lost = total - len(whole)
        began = time.monotonic()
        optuna.load_study(study_name="bench", storage=STORES[store](folder)).get_trials()
        opened = time.monotonic() - began
    print(
        f"{store:15} {seconds:6.1f} s  {seconds / total * 1000:6.1f} ms a trial  {lost:4} lost  "
        f"{size:5.1f} MiB  {opened * 1000:6.1f} ms to open and read it again",
        *errors,
    )


if __name__ == "__main__":
    multiprocessing.set_start_method("fork")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    trials, processes = map(int, sys.argv[1:] + ["200", "8"][len(sys.argv) - 1 :])
    for store in STORES:
        measure(store, trials, processes)
