"""`hydra.sweeper.custom_search_space`: a function that suggests more, as the official sweeper takes it."""

from collections.abc import Callable
from functools import partial
from typing import Any

from src.utils.errors import UserError, one_line
from src.utils.layout import Experiment

import optuna
from hydra.utils import instantiate
from omegaconf import DictConfig

TRUSTED = ("src.utils.*", "optuna.*", "hydra_plugins.*")
Extend = Callable[[DictConfig, optuna.Trial], None]


def custom_search_space(name: str | None, program: Any, here: Experiment) -> Extend | None:
    """The function of that name, or dotted path, if one is set.

    A name is enough in the experiment's own file. Otherwise only files of the experiment's folder are
    imported, and what Hydra may call in any case.

    Raises:
        UserError: there is none, or it is not trusted.
    """
    if not name:
        return None
    module, _, function = name.rpartition(".")
    if program is not None and module in (
        "",
        "__main__",
        program.file.stem,
        _dotted(program, here),
    ):
        return _own(name, function, program)
    own = [f"{file.stem}.*" for file in here.source.glob("*.py")]
    trusted = [*TRUSTED, f"src.{here.stage}.{here.name}.*", *own]
    try:
        found: Any = instantiate(
            {"_target_": name, "_partial_": True}, _execution_whitelist_=trusted
        )
    except Exception as error:  # it can't be imported, or is not trusted
        why = one_line(error.__cause__ or error)
        raise UserError(f"hydra.sweeper.custom_search_space={name} can't be used: {why}") from None
    return found.func if isinstance(found, partial) else found


def _dotted(program: Any, here: Experiment) -> str:
    return f"src.{here.stage}.{here.name}.{program.file.stem}"


def _own(name: str, function: str, program: Any) -> Extend:
    found = program.main.__globals__.get(function)
    if not callable(found):
        file = program.file.name
        raise UserError(f"hydra.sweeper.custom_search_space={name}: {file} has no such function")
    return found  # type: ignore[no-any-return]  # whatever the person wrote
