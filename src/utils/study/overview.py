"""How far the studies of a storage are, and which of their trials run where.

    storage = open_storage()
    for overview in read_overviews(storage, list_studies(storage)[:20]):
        print(overview.name, overview.finished, overview.running)

It reads few trials of each study: those that run or have failed, and the best one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from src.utils.errors import UserError
from src.utils.process import is_gone
from src.utils.store.record import REASON
from src.utils.study.study import (
    EXPERIMENT,
    FINISHED,
    N_TRIALS,
    PROCESS,
    REDUNDANT,
    was_interrupted,
)

from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.storages._rdb.models import TrialModel
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import func, select

# Of a study: in each state, how many trials there are, and when the first of them started
Counts = dict[TrialState, tuple[int, datetime | None]]
METRIC_NAMES = "study:metric_names"  # system attribute of Optuna


@dataclass(frozen=True)
class Overview:
    """A study, without most of its trials."""

    study: FrozenStudy
    started: datetime | None  # its first trial
    finished: int  # trials that are complete or pruned
    failed: int  # trials that failed by themselves; the interrupted ones are tried again
    running: list[FrozenTrial]  # those whose process lives
    best: FrozenTrial | None  # None where there are several objectives

    @property
    def name(self) -> str:
        return self.study.study_name

    @property
    def experiment(self) -> str:
        return str(self.study.user_attrs[EXPERIMENT])

    @property
    def n_trials(self) -> int:
        """How many finished trials the study is to have."""
        return int(self.study.user_attrs.get(N_TRIALS, 0))

    @property
    def metric(self) -> str:
        """What is searched for; empty before the first trial is complete, and for several objectives."""
        names: list[str] = self.study.system_attrs.get(METRIC_NAMES, [])
        return names[0] if len(names) == 1 else ""

    @property
    def is_finished(self) -> bool:
        return 0 < self.n_trials <= self.finished


def list_studies(storage: RDBStorage) -> list[FrozenStudy]:
    """The studies of experiments, the newest first."""
    return [one for one in reversed(storage.get_all_studies()) if EXPERIMENT in one.user_attrs]


def find_study_named(storage: RDBStorage, name: str) -> FrozenStudy:
    """The study of this name; `latest` is the newest.

    Raises:
        UserError: there is no such study.
    """
    studies = list_studies(storage)
    for study in studies:
        if name in (study.study_name, "latest"):
            return study
    known = ", ".join(study.study_name for study in studies[:5]) or "none yet"
    raise UserError(f"there is no study {name!r}; there are: {known}")


def read_overviews(storage: RDBStorage, studies: Sequence[FrozenStudy]) -> list[Overview]:
    """Read how far each of these studies is."""
    counts = _count_trials(storage, [study._study_id for study in studies])
    return [_read(storage, study, counts.get(study._study_id, {})) for study in studies]


def living_trials(
    storage: BaseStorage, study_id: int, running: Sequence[FrozenTrial]
) -> list[FrozenTrial]:
    """Those of the running trials whose process lives; of one on another machine its heartbeat tells."""
    assert isinstance(storage, BaseHeartbeat)  # there are no others
    lost = set(storage._get_stale_trial_ids(study_id)) if running else set()
    return [one for one in running if one._trial_id not in lost and not _is_gone(one)]


def _is_gone(trial: FrozenTrial) -> bool:
    process = trial.user_attrs.get(PROCESS)  # one that has just started has none
    return process is not None and is_gone(process)


def _count_trials(storage: RDBStorage, study_ids: list[int]) -> dict[int, Counts]:
    """By study and state, how many trials there are, and when the first of them started."""
    trials = TrialModel.__table__.c
    columns = (trials.study_id, trials.state)
    query = select(*columns, func.count(), func.min(trials.datetime_start)).group_by(*columns)
    found: dict[int, Counts] = {}
    with storage.engine.connect() as connection:
        for study_id, state, count, start in connection.execute(
            query.where(trials.study_id.in_(study_ids))
        ):
            began = start.replace(tzinfo=UTC).astimezone() if start else None
            found.setdefault(study_id, {})[state] = (count, began)
    return found


def _read(
    storage: RDBStorage,
    study: FrozenStudy,
    counts: Counts,
) -> Overview:
    starts = [start for _, start in counts.values() if start is not None]
    has_best = TrialState.COMPLETE in counts and len(study.directions) == 1
    unsettled = storage.get_all_trials(
        study._study_id, deepcopy=False, states=(TrialState.RUNNING, TrialState.FAIL)
    )
    running = [trial for trial in unsettled if trial.state is TrialState.RUNNING]
    return Overview(
        study,
        started=min(starts, default=None),
        finished=sum(count for state, (count, _) in counts.items() if state in FINISHED),
        failed=sum(map(_has_failed, unsettled)),
        running=living_trials(storage, study._study_id, running),
        best=storage.get_best_trial(study._study_id) if has_best else None,
    )


def _has_failed(trial: FrozenTrial) -> bool:
    is_redundant = trial.user_attrs.get(REASON) == REDUNDANT
    return trial.state is TrialState.FAIL and not was_interrupted(trial) and not is_redundant
