"""Reading back what was tracked: `load_model` makes a ready model from the id of its run.

    from src.utils.tracking import load_model
    model = load_model("3f2a")                                        # the start of a run id is enough
    model = load_model(experiment_name="model/model01", run_id="3f2a")

The model is built from the source that was kept with the run: editing or deleting
`src/model/model01` later changes nothing. Only weights and plain values are read from checkpoints.
"""

import logging
import pickle
from collections.abc import Iterator
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from types import ModuleType

from src.utils.errors import UserError
from src.utils.paths import ROOT, Experiment
from src.utils.pipeline.manifest import Manifest
from src.utils.runs.source_code import import_file, same_code
from src.utils.store.mlflow import artifact, local_store, open_store
from src.utils.store.reader import DatasetUse, RunReader, RunRecord, open_reader
from src.utils.store.reference import find, find_run, newest_run

import pytorch_lightning as pl
import torch
from mlflow.entities import Run as StoredRun
from mlflow.tracking import MlflowClient
from omegaconf import OmegaConf

log = logging.getLogger(__name__)
NO_DIFFERENCE = ("note", "tags", "force", "stale")  # settings that change no data


def load_model(
    run_id: str | None = None,
    *,
    experiment_name: str | None = None,
    checkpoint: str = "best",
    trust_source: bool = False,
) -> pl.LightningModule:
    """The model of a run in eval mode, with the run's settings as `model.config`.

    Args:
        run_id: a run id, the start of one, or a run name; a study's name or run means its best trial;
            None means the experiment's newest finished run.
        checkpoint: "best" or "last".
        trust_source: needed for a store that isn't local, since the run's source is executed.

    Raises:
        UserError: no such run, several, no such checkpoint, or one that holds more than weights.
    """
    client = open_store()
    run = _best_of_study(client, _find(client, run_id, experiment_name))
    if local_store() is None and not trust_source:
        raise UserError(
            "loading a model runs the source code kept with its run, and this store is not local: "
            "if you trust whoever wrote the run, say trust_source=True"
        )
    weights = artifact(client, run, f"checkpoints/{checkpoint}.ckpt")
    where, name = _read_safely(weights)["model_class"]
    module = _snapshot(client, run, where) if where.endswith(".py") else import_module(where)
    kind: type[pl.LightningModule] = attrgetter(name)(module)
    model = kind.load_from_checkpoint(weights, map_location="cpu", weights_only=True)
    settings = OmegaConf.load(artifact(client, run, "config/config.yaml"))
    object.__setattr__(model, "config", settings)  # no parameter, module or buffer of the network
    return model.eval()


def _find(client: MlflowClient, run_id: str | None, experiment_name: str | None) -> StoredRun:
    if run_id is not None:
        return find_run(client, run_id, experiment_name)
    if experiment_name is None:
        raise UserError("load_model needs a run_id, or an experiment_name for its newest run")
    return newest_run(client, experiment_name)


def _best_of_study(client: MlflowClient, run: StoredRun) -> StoredRun:
    """The run itself; for the run of a study, that of its best trial."""
    best = run.data.tags.get("best.run_id")
    return client.get_run(best) if best else run


def _read_safely(file: Path) -> dict[str, list[str]]:
    try:
        checkpoint: dict[str, list[str]] = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"{file} holds more than weights: refused, nothing was executed") from None
    return checkpoint


def _snapshot(client: MlflowClient, run: StoredRun, file: str) -> ModuleType:
    """The module as it was when the run ran, under a name of its own."""
    source = artifact(client, run, "source")
    local = ROOT / "src" / client.get_experiment(run.info.experiment_id).name
    if not local.is_dir() or not same_code(source, local):
        state = "has changed since" if local.is_dir() else "is no longer there"
        log.warning("%s %s: using the source kept with the run", local.relative_to(ROOT), state)
    return import_file(source / file, f"run_{run.info.run_id}_{Path(file).stem}")


def data_of_run(run_id: str, name: str = "feature") -> Path:
    """The folder that `run.input(name)` was in a run. Warns where it holds other data now, and says what
    they differ in.

    Raises:
        UserError: the run read no such data, or several; or they are not there any more.
    """
    reader = open_reader()
    run = find(run_id, reader=reader)
    used = _used(reader, run, name)
    what = Experiment.named(used.name)
    manifest = Manifest.read(what)
    if manifest is None:
        raise UserError(f"the data of {what}, which run {run.short} read, are not there any more")
    if not manifest.digest.startswith(used.digest):
        log.warning(
            "OTHER DATA: %s is not what run %s read: %s",
            what,
            run.short,
            "; ".join(_differences(reader, run, used, manifest)),
        )
    return what.data


def _used(reader: RunReader, run: RunRecord, name: str) -> DatasetUse:
    read = [one for one in reader.inputs(run.id) if one.context == "input"]
    match [one for one in read if name in (one.name, *one.name.split("/"))]:
        case [one]:
            return one
    there = ", ".join(one.name for one in read) or "no data"
    raise UserError(f"run {run.short} read {there}: name one of these, not {name!r}")


def _differences(
    reader: RunReader, run: RunRecord, used: DatasetUse, now: Manifest
) -> Iterator[str]:
    """Digests, facts, and the settings of the two runs that made the data, where they are still known."""
    yield f"digest {used.digest[:8]} then, {now.digest[:8]} today"
    for key, value in now.metadata.items():
        before = run.tags.get(f"data.{key}")
        if before not in (None, value):
            yield f"{key}={before} then, {value} today"
    makers = {one.id: one for one in reader.headers() if one.id in (used.run_id, now.run_id)}
    if len(makers) == 2:
        old, new = reader.filled([makers[used.run_id], makers[now.run_id]])
        for key in sorted({*old.params, *new.params} - {*NO_DIFFERENCE}):
            if old.params.get(key) != new.params.get(key):
                yield f"{key}={old.params.get(key)} then, {new.params.get(key)} today"


# MERGED data: The data that a run read, as they are today; loud where they are no longer the same.
#
# from src.utils.tracking import data_of_run
# folder = data_of_run("3f2a")                 # the feature that the run 3f2a read
# folder = data_of_run("3f2a", "feature02")    # one of several
