"""Equal runs: a finished run with the code, settings and data of the one that is about to start.

A run names the equal one before it starts, and runs all the same. With `reuse=true` it does not run:

    a run, a group     there is no new run; the summary of the old one is printed
    a trial, a member  it has a run of its own, with the metrics, tags and artifacts of the old one

In both cases the result is what the old run's `main` returned. A trial that is a group reuses its members.
Runs that were pruned, stopped or failed are never reused.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from src.utils.errors import UserError
from src.utils.files import link_or_copy
from src.utils.notification import notifier
from src.utils.paths import Experiment
from src.utils.pipeline.manifest import Manifest
from src.utils.process import RERUN, is_rank_zero
from src.utils.run import Run
from src.utils.runs.downloads import artifact_folder
from src.utils.runs.kept_code import PACK
from src.utils.runs.member import is_one_of_many, members_of, returned_by
from src.utils.runs.outcome import format_result
from src.utils.runs.provenance import METADATA, read_metadata
from src.utils.runs.resume import ResumePoint
from src.utils.runs.signature import BEGINNINGS, signature
from src.utils.runs.summary import print_earlier
from src.utils.settings import ModelSettings, Settings
from src.utils.store.objective import MONITOR, OBJECTIVE, Objective
from src.utils.store.reader import open_reader
from src.utils.store.record import EQUAL, REASON, RETURNED, REUSED, SIGNATURE, RunRecord
from src.utils.study.trial import TrialLink
from src.utils.terminal import format_age, lab_command

log = logging.getLogger(__name__)
# What each run has of its own: folders of artifacts, files in provenance/, tags and the prefixes of tags
OWN_FOLDERS = {"config", "source", "logs", "provenance"}
CODE_FILES = {"changes.patch", PACK}
OWN_TAGS = {MONITOR, RETURNED, REASON, REUSED, PACK, "rerun_of", *BEGINNINGS}
OWN_PREFIXES = ("mlflow.", "optuna.", "group.", "best.", "origin.", "tag.")


def find_earlier(
    experiment: Experiment,
    settings: Settings,
    inputs: list[Manifest],
    start: ResumePoint | None,
    own_signature: str,
) -> RunRecord | None:
    """The finished run whose results are used in place of running. With `reuse=false` it is only named.

    Neither a rerun nor a run that is resumed looks for one. A group in a study leaves that to its members,
    and a trial runs where it isn't known what `main` had returned.
    """
    resumes = start is not None and not start.new_run
    if not is_rank_zero() or RERUN in os.environ or resumes:
        return None
    equal, reuses = find_equal(own_signature), getattr(settings, "reuse", False)
    group = settings if isinstance(settings, ModelSettings) and settings.is_group else None
    if equal is None:
        if group and start is None and not reuses and not is_one_of_many():
            _count_equal_members(experiment, group, inputs)
        return None
    trial = TrialLink.current()
    is_known = trial is None or returned_by(equal.tags) != "null"
    if reuses and ((group and is_one_of_many()) or not is_known):
        return None
    log.info(describe_equal(equal, reuses))
    if trial is not None:
        trial.set_user_attr(REUSED if reuses else EQUAL, equal.id)
    return equal if reuses else None


def _count_equal_members(
    experiment: Experiment, settings: ModelSettings, inputs: list[Manifest]
) -> None:
    """Say how many members of a group that is about to start are equal to finished runs."""
    members = [settings.model_copy(update=one.settings) for one in members_of(settings)]
    signatures = [signature(experiment, one, inputs, None) for one in members]
    equal = sum(find_equal(one) is not None for one in signatures)
    if equal:
        line = "%d of %d members are equal to finished runs: reuse=true takes the results of those"
        log.info(line, equal, len(members))


def find_equal(own_signature: str) -> RunRecord | None:
    """The newest finished run with a signature. Those that reuse or repeat another come after all others."""
    found: list[RunRecord] = []
    with suppress(UserError):  # there is no store yet
        found = open_reader().tagged(SIGNATURE, own_signature) if own_signature else []
    usable = list(filter(_is_usable, found))
    return min(usable, key=lambda run: bool({REUSED, "rerun_of"} & {*run.tags}), default=None)


def _is_usable(run: RunRecord) -> bool:
    """Whether its main has returned, its trial is complete, and its files are still there."""
    is_complete = run.tags.get("optuna.state", "complete") == "complete"
    folder = run.artifact_uri.removeprefix("file://")
    has_files = not folder.startswith("/") or Path(folder).is_dir()
    return run.status == "FINISHED" and RETURNED in run.tags and is_complete and has_files


def describe_equal(run: RunRecord, reuses: bool) -> str:
    """One line about a run that is equal to the one that is about to start."""
    found = Objective.of(run)
    has_result = found is not None and found.metric in run.metrics
    result = f": {found.metric} {format_result(run, found.metric)}" if found and has_result else ""
    see = f"{lab_command()} show {run.short} shows it, reuse=true returns it instead"
    consequence = "it is returned (reuse=true)" if reuses else see
    return (
        f"run {run.short} ({run.name}, finished {format_age(run.ended)}) has the same code, settings and "
        f"data{result}; {consequence}"
    )


def return_earlier(run: RunRecord, settings: Settings) -> Any:
    """Print the summary of a finished run in place of a new one; returns what its `main` returned."""
    notifier.begin(run.id)
    print_earlier(run, settings)
    return json.loads(returned_by(run.tags))


def copy_results(old: RunRecord, run: Run) -> Any:
    """Give a new run the results of an equal one; returns what the old one's `main` returned.

    Raises:
        UserError: the objective of the run has another direction than the study of this trial.
    """
    objective = Objective.from_tags(old.tags)
    if objective is not None and objective.metric != OBJECTIVE:
        run.objective(objective.metric, objective.mode)
    folder = artifact_folder(run.client, run.client.get_run(old.id))
    _link_artifacts(folder, run.folder)
    _copy_provenance(folder / "provenance", run.folder / "provenance")
    names = (name for name in old.metrics if name != OBJECTIVE and not name.startswith("system/"))
    run.metrics.copy(old.id, names)
    present = run.client.get_run(run.id).data.tags
    run.tag(dict(_tags_of_main(old.tags, present)) | {REUSED: old.id})
    return json.loads(returned_by(old.tags))


def _link_artifacts(old: Path, new: Path) -> None:
    for file in filter(Path.is_file, old.rglob("*")):
        name = file.relative_to(old)
        if name.parts[0] not in OWN_FOLDERS:
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(file, new / name)


def _copy_provenance(old: Path, new: Path) -> None:
    """The packages and the machine are those that the results come from; the code is that of now."""
    for file in filter(Path.is_file, old.glob("*")):
        if file.name not in {*METADATA, *CODE_FILES}:
            shutil.copy2(file, new)
    metadata = read_metadata(new) | {"hardware": read_metadata(old).get("hardware", {})}
    (new / METADATA[0]).write_text(json.dumps(metadata, indent=2) + "\n")


def _tags_of_main(old: Mapping[str, str], present: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The tags that only the old run's `main` can have set."""
    for name, value in old.items():
        if name not in {*present, *OWN_TAGS} and not name.startswith(OWN_PREFIXES):
            yield name, value
