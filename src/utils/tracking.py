"""Reading back what was tracked: `load_model` makes a ready model from the id of its run.

    from src.utils.tracking import load_model
    model = load_model("3f2a")                                        # the start of a run id is enough
    model = load_model(experiment_name="model/model01", run_id="3f2a")

The model is built from the source that was kept with the run: editing or deleting
`src/model/model01` later changes nothing. Only weights and plain values are read from checkpoints.
"""

import logging
import pickle
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from src.utils.errors import UserError
from src.utils.finding import find_run, newest_run
from src.utils.layout import ROOT
from src.utils.store import local_store, open_store

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
    weights = _artifact(client, run, f"checkpoints/{checkpoint}.ckpt")
    where, name = _read_safely(weights)["model_class"]
    module = _snapshot(client, run, where) if where.endswith(".py") else import_module(where)
    kind: type[pl.LightningModule] = getattr(module, name)
    model = kind.load_from_checkpoint(weights, map_location="cpu", weights_only=True)
    settings = OmegaConf.load(_artifact(client, run, "config/config.yaml"))
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


def _artifact(client: MlflowClient, run: StoredRun, path: str) -> Path:
    """A file or folder among the artifacts, downloaded first where the store isn't local."""
    if local_store() is None:
        return Path(client.download_artifacts(run.info.run_id, path))
    found = Path(run.info.artifact_uri) / path
    if not found.exists():
        there = sorted(file.name for file in found.parent.glob("*")) or ["none"]
        raise UserError(
            f"run {run.info.run_id[:8]} ({run.info.status}) has no {path}: "
            f"its {found.parent.name} are {', '.join(there)}"
        )
    return found


def _read_safely(file: Path) -> dict[str, list[str]]:
    try:
        checkpoint: dict[str, list[str]] = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"{file} holds more than weights: refused, nothing was executed") from None
    return checkpoint


def _snapshot(client: MlflowClient, run: StoredRun, file: str) -> ModuleType:
    """The module as it was when the run ran, under a name of its own."""
    source = _artifact(client, run, "source")
    local = ROOT / "src" / client.get_experiment(run.info.experiment_id).name
    if not local.is_dir() or not _same(source, local):
        state = "has changed since" if local.is_dir() else "is no longer there"
        log.warning("%s %s: using the source kept with the run", local.relative_to(ROOT), state)
    spec = spec_from_file_location(f"run_{run.info.run_id}_{Path(file).stem}", source / file)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = module_from_spec(spec)
    sys.path.insert(0, str(source))  # siblings are imported by their plain names
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(source))
        _forget_siblings(source, spec.name)
    return module


def _forget_siblings(source: Path, keep: str) -> None:
    """Another run's sibling of the same name must not be taken for this one's."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name != keep and file and Path(file).parent == source:
            del sys.modules[name]


def _same(one: Path, other: Path) -> bool:
    return _code(one) == _code(other)


def _code(folder: Path) -> dict[Path, bytes]:
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*.py")}
