"""Reading back what was tracked: the model of a run, and the data that a run read.

    from src.utils.tracking import data_of_run, load_model
    model = load_model("3f2a")                                        # the start of a run id is enough
    model = load_model(experiment_name="model/model01", run_id="3f2a")
    folder = data_of_run("3f2a")                                      # the feature that the run 3f2a read
    folder = data_of_run("3f2a", "feature02")                         # one of several

A model is built from the source code that is saved with the run: editing or deleting `src/model/model01`
later changes nothing. Only weights and plain values are read from checkpoints. What a model without Lightning
has saved with `run.save` is read by the function `load` of its own program.
Data are not saved with a run: `data_of_run` gives the version that it read, and rebuilds one that is gone.
"""

import logging
import pickle
from collections.abc import Iterator
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from src.utils.averaged_model import AveragedModel
from src.utils.errors import UserError
from src.utils.paths import ROOT, SAVED, Experiment
from src.utils.pipeline.manifest import NO_EFFECT_ON_DATA, Manifest
from src.utils.pipeline.pins import find_pinned
from src.utils.runs.restore import ensure_version
from src.utils.runs.source_code import defines, import_file, same_code
from src.utils.store.location import local_database
from src.utils.store.reader import RunReader, open_reader
from src.utils.store.record import MEMBERS, DatasetUse, RunRecord
from src.utils.store.reference import find_record, find_run, list_members, newest_run

from omegaconf import OmegaConf

if TYPE_CHECKING:  # data_of_run needs neither torch nor MLflow
    import pytorch_lightning as pl
    from mlflow.entities import Run as StoredRun
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)


def load_model(
    run_id: str | None = None,
    *,
    experiment_name: str | None = None,
    checkpoint: str = "best",
    trust_source: bool = False,
) -> Any:
    """Load the model of a run.

    A run of Lightning gives its LightningModule in eval mode, with the run's settings as `model.config`. For
    a run that has saved files with `run.save`, and whose program defines `def load(folder: Path)` at top
    level, it is what that function returns. It is called with the folder of these files.
    A group gives an `AveragedModel`, which holds the models of all its members.

    Args:
        run_id: a run id, the start of one, or a run name; a study's name or run means its best trial;
            None means the experiment's newest finished run.
        experiment_name: `model/model01`; only its runs are searched.
        checkpoint: "best" or "last", of Lightning; of a part of the run "fold0/best". For a part of a run
            without Lightning, "fold0/best" is the folder of what the part has saved.
        trust_source: needed for a store that isn't local, since the run's source code is executed.

    Raises:
        UserError: no such run, several, no such checkpoint, one that holds more than weights, files without a
            function `load`, a group with members that are not finished, a blend, or a store that isn't local
            without `trust_source`.
    """
    from src.utils.store.mlflow import open_store  # late: it imports MLflow

    client = open_store()
    run = _best_of_study(client, _find_run(client, run_id, experiment_name))
    check_trust(trust_source)
    record = find_record(run.info.run_id)
    if record.blended:
        loads = ", ".join(f'load_model("{run_id[:8]}")' for run_id in record.blended)
        raise UserError(f"{record.short} is a blend: its runs may have different inputs: {loads}")
    if record.is_group:
        return AveragedModel(_load_members(client, record, checkpoint))
    return _load(client, run, checkpoint)


def check_trust(trust_source: bool) -> None:
    """Check that source code of the store may be run.

    Raises:
        UserError: the store isn't local, and `trust_source` is false.
    """
    if local_database() is None and not trust_source:
        raise UserError(
            "loading a model runs the source code kept with its run, and this store is not local: "
            "if you trust whoever wrote the run, say trust_source=True, or --trust-source on the command line"
        )


def _find_run(
    client: "MlflowClient", run_id: str | None, experiment_name: str | None
) -> "StoredRun":
    if run_id is not None:
        return find_run(client, run_id, experiment_name)
    if experiment_name is None:
        raise UserError("load_model needs a run_id, or an experiment_name for its newest run")
    return newest_run(client, experiment_name)


def _best_of_study(client: "MlflowClient", run: "StoredRun") -> "StoredRun":
    """The run of the best trial if the run is a study's; else the run itself."""
    best = run.data.tags.get("best.run_id")
    return client.get_run(best) if best else run


def _load_members(client: "MlflowClient", group: RunRecord, checkpoint: str) -> list[Any]:
    members = [run for run in list_members(open_reader(), group) if run.state == "finished"]
    if len(members) < int(group.tags[MEMBERS]):
        raise UserError(
            f"group {group.short} has {len(members)} of {group.tags[MEMBERS]} members finished: "
            f"lab resume {group.short} runs the others"
        )
    runs = [client.get_run(member.id) for member in members]
    return [_load(client, run, checkpoint, warn=run is runs[0]) for run in runs]


def _load(client: "MlflowClient", run: "StoredRun", checkpoint: str, warn: bool = True) -> Any:
    """The model of one run."""
    from src.utils.store.mlflow import get_artifact  # late: see `load_model`

    artifacts = {file.path for file in client.list_artifacts(run.info.run_id)}
    if SAVED in artifacts:
        program = Path(run.data.tags["mlflow.source.name"]).name
        source = get_artifact(client, run, "source")
        if defines(source / program, "load"):
            module = _import_saved_source(client, run, source, program, warn)
            part = Path(checkpoint).parent
            return module.load(get_artifact(client, run, str(SAVED / part)))
        if "checkpoints" not in artifacts:
            raise UserError(
                f"run {run.info.run_id[:8]} has saved files in {SAVED}/, and {program} defines no "
                "load(folder: Path) that reads them"
            )
    weights = get_artifact(client, run, f"checkpoints/{checkpoint}.ckpt")
    file, class_name = _read_model_class(weights)
    if file.endswith(".py"):
        module = _import_saved_source(client, run, get_artifact(client, run, "source"), file, warn)
    else:  # a module of a library
        module = import_module(file)
    kind: type[pl.LightningModule] = attrgetter(class_name)(module)
    model = kind.load_from_checkpoint(weights, map_location="cpu", weights_only=True)
    settings = OmegaConf.load(get_artifact(client, run, "config/config.yaml"))
    object.__setattr__(model, "config", settings)  # no parameter, module or buffer of the network
    return model.eval()


def _read_model_class(file: Path) -> tuple[str, str]:
    """Where the class of a checkpoint's model is defined: file or module, and qualified name."""
    import torch  # late: data_of_run doesn't need it

    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"{file} holds more than weights: refused, nothing was executed") from None
    where, name = checkpoint["model_class"]
    return where, name


def _import_saved_source(
    client: "MlflowClient", run: "StoredRun", source: Path, file: str, warn: bool
) -> ModuleType:
    """Import a file of the run's source code, under a module name that no other run has."""
    experiment = client.get_experiment(run.info.experiment_id).name
    local = ROOT / "src" / experiment
    if warn and (not local.is_dir() or not same_code(source, local)):
        state = "has changed since" if local.is_dir() else "is no longer there"
        log.warning("%s %s: using the source kept with the run", local.relative_to(ROOT), state)
    return import_file(source / file, f"run_{run.info.run_id}_{Path(file).stem}")


def data_of_run(run_id: str, name: str = "feature", *, trust_source: bool = False) -> Path:
    """The folder that `run.input(name)` was in a run: the version that it read, whatever was built since.

    A version that is gone is rebuilt. Where that can't be done, those of today are given, with a warning that
    says why, and how they differ.

    Args:
        run_id: a run id, the start of one, or a run name.
        name: the stage; if the run read several features, the name of one.
        trust_source: needed to rebuild data from a store that isn't local, since its source code is executed.

    Raises:
        UserError: no such run or several; the run read no such data, or several; they are gone, can't be
            rebuilt, and there are none today.
    """
    reader = open_reader()
    run = find_record(run_id, reader=reader)
    used = _find_input(reader, run, name)
    experiment = Experiment.named(used.name)
    try:
        if find_pinned(experiment, used.digest) is None:
            check_trust(trust_source)
        return ensure_version(used.name, used.digest, used.run_id)
    except UserError as error:
        manifest = Manifest.read(experiment)
        if manifest is None:
            raise
        why = "; ".join([str(error), *_differences(reader, run, used, manifest)])
        log.warning("OTHER DATA: today's %s, not that of run %s: %s", experiment, run.short, why)
        return manifest.folder


def _find_input(reader: RunReader, run: RunRecord, name: str) -> DatasetUse:
    inputs = [data for data in reader.datasets(run.id) if data.context == "input"]
    match [data for data in inputs if name in (data.name, *data.name.split("/"))]:
        case [data]:
            return data
    names = ", ".join(data.name for data in inputs) or "no data"
    raise UserError(f"run {run.short} read {names}: name one of these, not {name!r}")


def _differences(
    reader: RunReader, run: RunRecord, used: DatasetUse, now: Manifest
) -> Iterator[str]:
    """Digests, metadata, and the settings of the two runs that made the data, if both still exist."""
    yield f"digest {used.digest[:8]} then, {now.digest[:8]} today"
    for key, value in now.metadata.items():
        before = run.tags.get(f"data.{key}")
        if before not in (None, value):
            yield f"{key}={before} then, {value} today"
    makers = {record.id: record for record in reader.runs()}
    if used.run_id in makers and now.run_id in makers and used.run_id != now.run_id:
        old, new = reader.with_values([makers[used.run_id], makers[now.run_id]])
        for key in sorted({*old.params, *new.params} - NO_EFFECT_ON_DATA):
            if old.params.get(key) != new.params.get(key):
                yield f"{key}={old.params.get(key)} then, {new.params.get(key)} today"
