"""Moving runs from one place to another: each as a whole, and only what is not there yet.

A run is written after its artifacts, in one step. Wherever a transfer is interrupted, what has arrived is
complete, and the next transfer goes on from there. Of two states of a run the later one
(`PortableRun.activity`) is kept, with the tags, metrics and datasets that only the other one has.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from src.utils.errors import UserError, first_line
from src.utils.transfer.code import move_code
from src.utils.transfer.data import move_data
from src.utils.transfer.place import Copied, Place
from src.utils.transfer.portable import DELETED, PortableRun
from src.utils.transfer.progress import TransferProgress
from src.utils.transfer.studies import move_studies

NEW, UPDATED, UNCHANGED, LEFT_DELETED = "new", "updated", "unchanged", "deleted"


@dataclass
class Moved:
    """What a transfer has done, or would do."""

    runs: dict[str, str] = field(default_factory=dict)  # by id: NEW, UPDATED …
    artifacts: Copied = field(default_factory=Copied)
    studies: list[str] = field(default_factory=list)  # names
    data: dict[str, Copied] = field(default_factory=dict)  # by <stage>/<name>/<digest>
    commits: list[str] = field(default_factory=list)

    def count(self, outcome: str) -> int:
        """How many runs had this outcome."""
        return list(self.runs.values()).count(outcome)


def move(
    source: Place,
    target: Place,
    selection: Sequence[PortableRun],
    with_data: bool = False,
    dry_run: bool = False,
) -> Moved:
    """Bring runs, and what belongs to them, to another place.

    Args:
        selection: runs as `source` lists them.
        with_data: bring the versions of the data that they read and wrote, too.
        dry_run: write nothing, and say which runs would be written.

    Raises:
        UserError: one of the places can't be read, or can no longer be written to.
    """
    present = {run.id: run for run in target.runs()}
    outcomes = {run.id: _outcome(run, present.get(run.id)) for run in selection}
    if dry_run:
        return Moved(outcomes)
    moved = Moved(dict.fromkeys(outcomes, UNCHANGED))
    ordered = sorted(selection, key=lambda run: run.started or 0)  # a group before its members
    waiting = [run for run in ordered if outcomes[run.id] in (NEW, UPDATED)]
    with target.lock(), TransferProgress(len(waiting)) as progress:
        try:
            for run in waiting:
                outcome, copied = _move_run(source, target, run, present.get(run.id), progress)
                moved.runs[run.id] = outcome
                moved.artifacts = moved.artifacts.plus(copied)
                progress.advance()
            moved.commits = move_code(source, target, ordered)
            moved.studies = move_studies(source, target, ordered)
            if with_data:
                moved.data = move_data(source, target, ordered, progress.report)
        except (OSError, UserError) as error:
            raise UserError(f"{_reason(error)}: {progress.said}") from None
        except KeyboardInterrupt:
            print(f"stopped: {progress.said}")
            raise
    moved.runs |= {one: kind for one, kind in outcomes.items() if kind == LEFT_DELETED}
    return moved


def _outcome(run: PortableRun, present: PortableRun | None) -> str:
    if present is None:
        return NEW
    if present.lifecycle == DELETED:  # by someone here, for a reason
        return LEFT_DELETED
    is_later = run.activity > present.activity
    lacks = present.lacks(run) and not present.is_running
    return UPDATED if is_later or run.is_running or lacks else UNCHANGED


def _move_run(
    source: Place,
    target: Place,
    listed: PortableRun,
    present: PortableRun | None,
    progress: TransferProgress,
) -> tuple[str, Copied]:
    """Read first, written last: what a running run does meanwhile is left to the next transfer."""
    run, copied = source.with_history(listed), Copied()
    is_later = present is None or run.activity > present.activity
    if is_later or run.is_running:
        with source.artifacts(run) as folder:
            copied = target.write_artifacts(run, folder, progress.report)
    if present is None:
        target.write(run)
        return NEW, copied
    before = target.read(run.id)
    merged = run.completed_by(before) if is_later else before.completed_by(run)
    if before.is_running and not is_later:  # it may go on at this moment
        merged = before
    if merged.as_dict() != before.as_dict():
        target.write(merged)
    elif not copied.files:
        return UNCHANGED, copied
    return UPDATED, copied


def _reason(error: OSError | UserError) -> str:
    if isinstance(error, UserError):
        return str(error)
    file = error.filename2 or error.filename
    return f"{error.strerror or first_line(error)}{f' ({file})' if file else ''}"
