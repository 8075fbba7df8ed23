"""Tracking a run from its first moment to its last: whatever ends it, it has the right status."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from src.utils.paths import Experiment, display_path
from src.utils.pipeline.manifest import Manifest
from src.utils.process import SHARED_RUN, UNHANDLED, deferred_interrupts, exit_code, is_rank_zero
from src.utils.run import Run, create_run
from src.utils.runs.artifacts import record_run, record_settings, save_traceback
from src.utils.runs.heartbeat import take_over
from src.utils.runs.join import following, launch_tags
from src.utils.runs.member import MemberLink
from src.utils.runs.metric_buffer import system_metrics
from src.utils.runs.run_of_job import job_tags
from src.utils.settings import ModelSettings, Settings
from src.utils.store.mlflow import open_store
from src.utils.study.trial import Pruned, TrialLink

if TYPE_CHECKING:
    from src.utils.runs.resume import ResumePoint


@contextmanager
def tracked(
    experiment: Experiment,
    settings: Settings,
    inputs: list[Manifest],
    start: "ResumePoint | None" = None,
) -> Iterator[Run]:
    """Track a run: it is recorded when it begins, and closed with the right status whatever ends it.

    Args:
        settings: recorded as parameters and as files.
        start: the run to resume, or of a warm start.

    Raises:
        UserError: the MLflow store can't be opened, or the MLflow experiment was deleted.
        SystemExit: Ctrl-C or SIGTERM has ended the run; its status is KILLED.
    """
    if not is_rank_zero():
        run = Run(open_store(), os.environ[SHARED_RUN], experiment, inputs)
        with following(run):
            yield _prepared(run, settings, start)
        return
    with _opened(experiment, inputs, start) as run:
        if start is None or start.new_run:
            _record_start(run, settings, inputs, start)
        is_group = isinstance(settings, ModelSettings) and settings.is_group
        run.begin(forks=is_group)
        with nullcontext() if is_group else system_metrics(run.id):  # its members have their own
            yield _prepared(run, settings, start)


@contextmanager
def _opened(
    experiment: Experiment, inputs: list[Manifest], start: "ResumePoint | None"
) -> Iterator[Run]:
    run: Run | None = None
    status = "FAILED"
    try:
        # An interrupt here could leave a run that is RUNNING for ever
        with deferred_interrupts() as handlers:
            run = _create_or_reopen(experiment, inputs, start)
            os.environ[SHARED_RUN] = run.id
            if handlers[signal.SIGTERM] in UNHANDLED:
                handlers[signal.SIGTERM] = run.terminate
        yield run
        status = "FINISHED"
    except Pruned:
        status = "FINISHED"
        raise
    except BaseException as error:
        if run is None:
            raise
        if run.ended_by or isinstance(error, KeyboardInterrupt):
            status = "KILLED"
            raise SystemExit(exit_code(run.ended_by or signal.SIGINT)) from None
        error.add_note(f"the whole traceback: {display_path(save_traceback(run.folder))}")
        raise
    finally:
        if run is not None:
            os.environ.pop(SHARED_RUN, None)
            run.close(status)


def _create_or_reopen(
    experiment: Experiment, inputs: list[Manifest], start: "ResumePoint | None"
) -> Run:
    trial = TrialLink.current()
    if start is not None and not start.new_run:
        client, run_id = open_store(), start.run.info.run_id
        take_over(client, run_id)
        for key, value in (job_tags() | launch_tags()).items():
            client.set_tag(run_id, key, value)
        run = Run(client, run_id, experiment, inputs)
    else:
        link = trial or MemberLink.current()
        tags = (link.tags() if link else job_tags()) | launch_tags()
        run = create_run(experiment, tags, inputs, link.name if link else None)
    if trial is not None:
        trial.take_up(run.client, run.id)
    return run


def _record_start(
    run: Run, settings: Settings, inputs: list[Manifest], start: "ResumePoint | None"
) -> None:
    """Record all that is known when a new run begins."""
    for manifest in inputs:
        run.log_dataset(manifest, "input")
    run.tag_data(**run.data_metadata)
    if start is not None:
        tag = "warm_start_from" if start.weights_only else "continued_from"
        run.tag({tag: start.run.info.run_id})
        if start.more_epochs:
            start.copy_checkpoints(run.checkpoints)
    record_run(run.client, run.id, run.folder, run.experiment, settings.note, settings.tags)
    record_settings(run.client, run.id, run.folder, settings)


def _prepared(run: Run, settings: Settings, start: "ResumePoint | None") -> Run:
    """Set the fold, and the checkpoint that the training begins with."""
    if isinstance(settings, ModelSettings):
        run.fold = settings.fold or 0
    run.start = start
    if start is not None and start.weights_only:
        run.weights_from = start.checkpoint
    elif start is not None:
        run.resume_from, run.more_epochs = start.checkpoint, start.more_epochs
    return run
