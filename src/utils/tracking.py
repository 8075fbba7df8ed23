"""Reading back what was tracked: `load_model` makes a ready model from the id of its run.

    from src.utils.tracking import load_model
    model = load_model("3f2a")                                        # the start of a run id is enough
    model = load_model(experiment_name="model/model01", run_id="3f2a")

The model is built from the source that was kept with the run: editing or deleting
`src/model/model01` later changes nothing. Only weights and plain values are read from checkpoints.
"""

import logging
import pickle
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from types import ModuleType

from src.utils.errors import UserError
from src.utils.execution.snapshot import import_file, same_code
from src.utils.layout import ROOT
from src.utils.store.client import artifact, local_store, open_store
from src.utils.store.finding import find_run, newest_run

import pytorch_lightning as pl
import torch
from mlflow.entities import Run as StoredRun
from mlflow.tracking import MlflowClient
from omegaconf import OmegaConf

log = logging.getLogger(__name__)


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
