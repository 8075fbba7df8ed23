"""Parts of a run: each is one fit of several, such as the folds of a loop in `main`.

    losses = []
    for fold in range(5):
        part = run.part(f"fold{fold}")
        losses.append(part.once(train, cfg, part, fold))    # `train` returns the loss of its fold

A part is used like a run: `tracked_trainer(part, cfg)`, `part.log`, `part.report`, `part.save`. What it
makes lies in folders of its name, and its metrics begin with it: `checkpoints/fold0/best.ckpt`,
`fold0/val_loss`. A loop that was killed is resumed like any run: finished parts are kept, the part that was
stopped goes on from `part.resume_from`, and the next ones follow.
"""

import copy
import re
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, Self, SupportsFloat

from src.utils.errors import UserError
from src.utils.paths import SAVED
from src.utils.runs.metric_buffer import MetricBuffer

from mlflow.tracking import MlflowClient

if TYPE_CHECKING:
    from src.utils.runs.resume import ResumePoint

FINISHED = "part."  # a tag: part.fold0 is the number that `once` has got
FIRST_STEP = "first_step."  # a tag: where the reports of a part begin among those of its trial
NAME = re.compile(r"\w[\w.-]*")
Arguments = ParamSpec("Arguments")


class Fit:
    """What a run and each of its parts have of their own; `Run` has the rest."""

    id: str  # its id in MLflow
    client: MlflowClient  # of the store that the run is in
    metrics: MetricBuffer  # where `log` writes to
    folder: Path  # the folder of its artifacts
    is_rank_zero: bool  # whether this process records; in a distributed training, only one does
    # What to resume from: Lightning's checkpoint; without Lightning, the folder of what `save` has written
    resume_from: Path | None = None
    weights_from: Path | None = None  # the same of the run whose weights a warm start begins with
    more_epochs = False  # whether it resumes a finished run with a larger max_epochs
    has_trainer = False  # whether it has its trainer: a fit has one
    start: "ResumePoint | None" = None  # where it begins, unless at the beginning
    seed_random: Callable[[], None] = staticmethod(lambda: None)  # as when the run began
    prefix = ""  # `fold0/` in a part

    def __init__(self) -> None:
        self.whole = self  # the run, of a part
        self.part_names: set[str] = set()  # of the parts that were made
        self.ended_by: signal.Signals | None = None  # what has stopped it
        self.first_step = 0  # where the reports of this fit begin
        self.reported = 0  # the last step that was reported by the run or a part

    @property
    def checkpoints(self) -> Path:
        """The folder of Lightning's checkpoints, among the artifacts."""
        return self.folder / "checkpoints" / self.prefix

    @property
    def saved(self) -> Path:
        """The folder of what `save` writes, among the artifacts."""
        return self.folder / SAVED / self.prefix

    def part(self, name: str) -> Self:
        """A part of this run, for one fit of several: see the top of `src/utils/runs/part.py`.

        It begins with the random state of `seed`, as the run did, whatever came before it. Its monitored
        metric is not the run's objective: that is the number that `main` returns, or what `run.objective`
        names.

        Args:
            name: a plain name, such as `fold0`; each is used once in a run.

        Raises:
            UserError: the name is not plain, or was used already.
        """
        if not NAME.fullmatch(name):
            raise UserError(f"run.part({name!r}): the name should be letters, digits, _ - or .")
        part = copy.copy(self)
        part.prefix = f"{self.prefix}{name}/"
        if part.prefix in self.whole.part_names:
            raise UserError(f"run.part({name!r}) was made already: each part is one fit")
        self.whole.part_names.add(part.prefix)
        part.has_trainer, part.first_step = False, self._first_step(part.prefix.rstrip("/"))
        if self.start is not None:
            part.resume_from, part.weights_from = self.start.of_part(part.prefix)
        self.seed_random()
        return part

    @property
    def resumes(self) -> bool:
        """Whether it goes on with a run that was stopped."""
        return self.start is not None and not self.start.new_run

    def _first_step(self, part: str) -> int:
        """Where the reports of a part begin: after all others; in a run that is resumed, as before."""
        tag = f"{FIRST_STEP}{part}"
        stored = self.client.get_run(self.id).data.tags.get(tag) if self.resumes else None
        if stored is None and self.whole.reported and self.is_rank_zero:
            self.client.set_tag(self.id, tag, str(self.whole.reported))
        return self.whole.reported if stored is None else int(stored)

    def once(
        self,
        fit: Callable[Arguments, SupportsFloat],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> float:
        """Call `fit(*args, **kwargs)` and return its number.

        Where a resumed run has done so before it was stopped, return the number that it got then.
        """
        tag = f"{FINISHED}{self.prefix.rstrip('/')}"
        finished = self.client.get_run(self.id).data.tags.get(tag)
        if finished is not None:
            return float(finished)
        self.seed_random()
        value = float(fit(*args, **kwargs))
        self.metrics.flush()
        if self.is_rank_zero:
            self.client.set_tag(self.id, tag, repr(value))
        return value

    def count_report(self, step: int) -> int:
        """The step of a report, counted through all parts of the run."""
        self.whole.reported = max(self.whole.reported, self.first_step + step)
        return self.first_step + step

    def _prefixed(self, metrics: Mapping[str, SupportsFloat]) -> dict[str, SupportsFloat]:
        return {f"{self.prefix}{name}": value for name, value in metrics.items()}
