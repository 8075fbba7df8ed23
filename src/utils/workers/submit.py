"""Submitting a search or a single run to an engine: `workers=slurm` and the like."""

from src.utils.errors import UserError
from src.utils.paths import MAIN_CHECKOUT
from src.utils.store.location import is_server, mask_password, tracking_uri

RUN_STORE, STUDY_STORE = "MLFLOW_TRACKING_URI", "OPTUNA_STORAGE"


def check_stores(study_store: str | None) -> None:
    """Check that other machines can reach the stores.

    Args:
        study_store: the URL of the study store; None for a single run, which has none.

    Raises:
        UserError: a store is a file of this machine.
    """
    if not is_server(tracking_uri()):
        raise UserError(
            f"workers elsewhere record their runs on an MLflow server, not in {_shown(tracking_uri())}: "
            f"set {RUN_STORE}=http://…"
        )
    if study_store is not None and not study_store.startswith(("postgresql", "mysql")):
        raise UserError(
            f"workers elsewhere share a study in a database server, not in {_shown(study_store)}: "
            f"set {STUDY_STORE}=postgresql+psycopg://…"
        )


def _shown(url: str) -> str:
    return mask_password(url).replace(f"{MAIN_CHECKOUT}/", "") or "SQLite"
