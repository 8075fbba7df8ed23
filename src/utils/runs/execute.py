"""Executing an experiment: its inputs are prepared, then its `main` is called inside a tracked run.

What has `StageSettings`, as a dataset or feature, writes `_data/<stage>/<name>`; others read that folder.
"""

import json
import logging
import math
import os
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from src.utils.config.settings_class import makes_data
from src.utils.config.sweep_settings import objective_mode
from src.utils.notification import notifier
from src.utils.paths import Experiment
from src.utils.pipeline.inputs import prepare_inputs
from src.utils.pipeline.manifest import Manifest, file_digests, fingerprint, json_digest
from src.utils.pipeline.pins import pinned, pins_of
from src.utils.pipeline.recipe import Recipe
from src.utils.pipeline.versions import (
    add_version,
    build_lock,
    find_build,
    open_draft,
    use_version,
    version_in_use,
)
from src.utils.process import RERUN, is_rank_zero
from src.utils.runs.member import is_one_of_many
from src.utils.runs.signature import code_digest, signature
from src.utils.settings import ModelSettings, Settings, TrainingSettings
from src.utils.store.objective import MONITOR, OBJECTIVE, Objective
from src.utils.store.record import RETURNED, SIGNATURE
from src.utils.study.trial import convert_trial_pruned

from hydra.core.hydra_config import HydraConfig

if TYPE_CHECKING:
    from src.utils.run import Run
    from src.utils.runs.resume import ResumePoint

log = logging.getLogger(__name__)
Main = Callable[[Any, Any], Any]  # of the settings and the run
GroupMain = Callable[[Any, Any, Any], Any]  # of the settings, the settings as typed, and the run
LONGEST_VALUE = 2000  # letters of what `main` returned, in a tag


def execute(experiment: Experiment, main: Main, run_group: GroupMain, settings: Settings) -> Any:
    """Run an experiment once. Data that are up to date are not built again.

    Args:
        run_group: called in place of `main` for a group.

    Returns:
        What `main` or `run_group` returned; None for what makes data.

    Raises:
        UserError: an input can't be built, or the run that the settings name can't be resumed.
        Pruned: the pruner has ended this trial.
    """
    if makes_data(experiment, type(settings)):
        return _build(experiment, main, settings)
    return _train(experiment, main, run_group, settings)


def _train(experiment: Experiment, main: Main, run_group: GroupMain, typed: Settings) -> Any:
    from src.utils.runs.interrupted import find_finished, find_start, result_of
    from src.utils.runs.reuse import copy_results, find_earlier, return_earlier
    from src.utils.runs.summary import print_summary
    from src.utils.runs.tracked import tracked  # late: a stage that is up to date needs no MLflow

    began = time.monotonic()
    code_digest(experiment.source)  # now: files may be edited while the inputs are built
    finished = find_finished(typed)
    if finished is not None:
        return result_of(finished)
    settings, start, versions = find_start(experiment, typed)
    with pinned(pins_of(versions)):
        inputs = prepare_inputs(settings, check=not _is_checked(start))
    own_signature = signature(experiment, settings, inputs, start)
    earlier = find_earlier(experiment, settings, inputs, start, own_signature)
    if earlier is not None and not is_one_of_many():
        return return_earlier(earlier, settings)
    with pinned(pins_of(inputs)), tracked(experiment, settings, inputs, start) as run:
        notifier.begin(run.id)
        if run.is_rank_zero and "sample" in run.data_metadata.get("source", "").split("+"):
            log.warning("SAMPLE DATA: a small part of the data set; see README, «Data»")
        if run.is_rank_zero:
            run.tag({SIGNATURE: own_signature})
        if earlier is not None:
            value = copy_results(earlier, run)
        else:
            value = _call(main, partial(run_group, settings, typed), settings, run)
        if run.is_rank_zero:
            run.tag({RETURNED: _to_json(value)})
        record_objective(run, settings, value)
    if run.is_rank_zero and not is_one_of_many() and RERUN not in os.environ:
        print_summary(run, settings, time.monotonic() - began)
    return value


def _call(main: Main, run_group: Callable[[Any], Any], settings: Settings, run: "Run") -> Any:
    if isinstance(settings, ModelSettings) and settings.is_group:
        return run_group(run)
    run.seed_random = partial(seed_random, settings)  # for its parts
    run.seed_random()
    with convert_trial_pruned():
        return main(settings, run)


def _to_json(value: Any) -> str:
    """A number or several as JSON; `null` for anything else."""
    try:
        text = json.dumps(value, default=lambda number: number.tolist())
    except (TypeError, ValueError, AttributeError):
        return "null"
    return text if len(text) <= LONGEST_VALUE else "null"


def seed_random(settings: Settings) -> None:
    """Seed Python, NumPy and torch with the setting `seed`.

    A Lightning training is seeded by Lightning, its DataLoader workers, too. For any other model NumPy and
    torch are seeded if they are imported by now: import them at the top of the program.
    """
    if isinstance(settings, TrainingSettings) or "pytorch_lightning" in sys.modules:
        from pytorch_lightning import seed_everything  # late: other models need no torch

        seed_everything(settings.seed, workers=True, verbose=False)
        return
    random.seed(settings.seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(settings.seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(settings.seed)


def _build(experiment: Experiment, main: Main, settings: Settings) -> None:
    inputs = prepare_inputs(settings, check=not _is_checked(None))
    needed = fingerprint(experiment, settings, inputs)
    recipe = Recipe.current(experiment, settings, inputs)  # now: files may be edited meanwhile
    is_new = getattr(settings, "force", False) or RERUN in os.environ
    with build_lock(experiment, needed):
        present = version_in_use(experiment)
        manifest = None if is_new else _find_built(experiment, needed, present)
        if manifest is None:
            manifest = _build_version(experiment, main, settings, inputs, recipe, needed)
        use_version(experiment, manifest, recipe)


def _find_built(experiment: Experiment, needed: str, present: Manifest | None) -> Manifest | None:
    """The version that was built before from the same settings, code and inputs; a line says so."""
    is_present = present is not None and present.fingerprint == needed
    manifest = present if is_present else find_build(experiment, needed)
    if manifest is None:
        return None
    metadata = "".join(f", {key}={value}" for key, value in manifest.metadata.items())
    if present is not None and present.digest == manifest.digest:
        log.info("%s is up to date%s (force=true does it again)", experiment, metadata)
    else:
        text = "%s is back to version %s%s (built before; force=true does it again)"
        log.info(text, experiment, manifest.digest[:8], metadata)
    return manifest


def _build_version(
    experiment: Experiment,
    main: Main,
    settings: Settings,
    inputs: list[Manifest],
    recipe: Recipe,
    needed: str,
) -> Manifest:
    from src.utils.runs.tracked import tracked  # late: a stage that is up to date needs no MLflow

    with tracked(experiment, settings, inputs) as run, open_draft(experiment, needed) as run.output:
        notifier.begin(run.id)
        main(settings, run)
        files = file_digests(run.output)
        manifest = Manifest(
            str(experiment), needed, json_digest(files), files, run.id, run.data_metadata
        )
        run.log_dataset(manifest, "output")
        return add_version(run.output, manifest, recipe)


def _is_checked(start: "ResumePoint | None") -> bool:
    """Whether the inputs need no check: a sweep, or rank zero, has done it for this process.

    A resumed training and a rerun use the inputs that the old run had, or are refused.
    """
    resumes = start is not None and not start.weights_only
    return is_one_of_many() or not is_rank_zero() or RERUN in os.environ or resumes


def record_objective(run: "Run", settings: Settings, value: Any) -> None:
    """Set the tag `monitor` on a run without one; `run.objective` or a trainer may have set it already.

    The tag names the setting `monitor` if that metric was logged. Else it names the metric `objective`:
    the value that `main` returned, if that is one finite number.
    """
    if not run.is_rank_zero or MONITOR in run.client.get_run(run.id).data.tags:
        return
    mode = objective_mode(
        getattr(settings, "mode", None), HydraConfig.get().sweeper.get("direction")
    )
    monitor, number = getattr(settings, "monitor", None), _finite_number(value)
    monitor = run.metrics.stored_name(monitor) if monitor else None
    run.metrics.flush()
    if monitor in run.metrics.latest:
        run.tag({MONITOR: Objective(monitor, mode == "max").to_tag()})
    elif number is not None:
        run.log({OBJECTIVE: number})
        run.tag({MONITOR: Objective(OBJECTIVE, mode == "max").to_tag()})


def _finite_number(value: Any) -> float | None:
    """The value as a float, of whatever library; None for several objectives, which have no order."""
    try:
        number = None if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        return None
    return number if number is not None and math.isfinite(number) else None
