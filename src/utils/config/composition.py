"""How Hydra composes the settings of an experiment: where it looks, and what names mean there."""

import os
import re
import secrets
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from src.utils.config import sweep_settings
from src.utils.config.trainer_arguments import argument_names, no_argument
from src.utils.errors import UserError, one_line
from src.utils.paths import ROOT, Experiment
from src.utils.settings import flat, unknown

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.plugin import Plugin
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

# What a config may name as `_target_`: an override can't make the program call anything else.
TRUSTED = ("src.utils.*", "optuna.*", "hydra_plugins.*", "hydra._internal.*")
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, YAMLError)  # mistakes in settings


_running: Experiment | None = None  # whom the resolver `experiment` names


class SharedConfig(SearchPathPlugin):
    """Lets `config/model/model01` begin with `/training`.

    No wider than config/utils: with `feature` as a group, `feature=feature02` would choose a file.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="jikken", path=f"file://{ROOT / 'config' / 'utils'}")


def hydra_program(
    experiment: Experiment, task: Callable[..., Any], plugins: Sequence[type[Plugin]] = ()
) -> Callable[[], None]:
    """`task` as a Hydra command whose settings are the mirror of its folder.

    plugins: launchers and sweepers that Hydra is to know
    """
    _register(experiment)
    for plugin in plugins:
        Plugins.instance().register(plugin)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, unprinted
    decorate = hydra.main(
        config_path=str(experiment.config), config_name="config", execution_whitelist=TRUSTED
    )
    program: Callable[[], None] = decorate(task)
    return program


def composed(experiment: Experiment, overrides: list[str], name: str = "config") -> DictConfig:
    """The settings of one run, with Hydra's own. A folder to search that isn't there is an error."""
    with (
        _registered(experiment),
        warnings.catch_warnings(),
        initialize_config_dir(str(experiment.config), job_name=str(experiment)),
    ):
        warnings.filterwarnings("error", ".* is not available", UserWarning)
        return compose(name, overrides, return_hydra_config=True)


def values_of(
    experiment: Experiment, overrides: list[str], name: str = "config"
) -> dict[str, str] | None:
    """The settings when `overrides` are typed, by dotted name; None where they can't be composed, as when
    half an experiment is written."""
    if not (experiment.config / f"{name}.yaml").exists():
        return None
    try:
        with _registered(experiment), initialize_config_dir(str(experiment.config)):
            values = OmegaConf.to_container(compose(name, overrides), resolve=True)
    except COMPOSITION_ERRORS:
        return None
    assert isinstance(values, dict)
    return {name: str(value) for name, value in flat({str(k): v for k, v in values.items()})}


def defaults(experiment: Experiment) -> dict[str, str] | None:
    """The settings when nothing is typed."""
    return values_of(experiment, [])


@contextmanager
def _registered(experiment: Experiment) -> Iterator[None]:
    """For a moment, `${experiment:}` and Hydra's global state are not those of this process's program."""
    hydra_now, running = GlobalHydra.instance().hydra, _running
    GlobalHydra.instance().clear()
    _register(experiment)
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = hydra_now
        if running is not None:
            _register(running)


def composition_error(error: Exception, experiment: Experiment, known: list[str]) -> UserError:
    """What is wrong in a command line, with the nearest names where one is unknown.

    known: the experiment's settings
    """
    match = re.match(r"Could not override '([\w.]+)'", str(error))
    if match is None:
        return UserError(_explained(error))
    parent, _, key = match[1].rpartition(".")
    if parent == "trainer":
        return UserError(
            f"trainer.{key} is not set yet: +trainer.{key}=… adds it"
            if key in argument_names()
            else no_argument(key)
        )
    if not parent and key in known:
        return UserError(f"{key} is not in the settings that were composed: +{key}=… adds it")
    names = known if not parent else _names_in(experiment, parent)
    if not names:
        return UserError(_explained(error))
    return UserError(unknown(match[1], [f"{parent}.{name}".lstrip(".") for name in names]))


def _names_in(experiment: Experiment, parent: str) -> list[str]:
    try:
        found = OmegaConf.select(composed(experiment, []), parent)
    except COMPOSITION_ERRORS:
        return []
    return [str(name) for name in found] if OmegaConf.is_dict(found) else []


def _explained(error: Exception) -> str:
    """With the reason that Hydra leaves in the cause, as of a value of the wrong type."""
    said, cause = one_line(error), error.__cause__
    why = str(cause).strip().split("\n")[0] if cause else ""
    if not isinstance(error, COMPOSITION_ERRORS):
        said = f"these settings can't be composed: {type(error).__name__}: {said}"
    return said if not why or why in said else f"{said}: {why}".lstrip(": ")


def _register(experiment: Experiment) -> None:
    global _running  # noqa: PLW0603  # resolvers are global, too
    _running = experiment
    Plugins.instance().register(SharedConfig)
    sweep_settings.register()
    resolve = OmegaConf.register_resolver
    resolve("root", lambda: str(ROOT), replace=True)
    resolve("experiment", lambda: str(experiment), replace=True)
    resolve("moment", _moment, use_cache=True, replace=True)


def _moment() -> str:
    """A folder name that two runs never share, even when they start in the same second."""
    return f"{datetime.now():%Y-%m-%d/%H-%M-%S}-{secrets.token_hex(2)}"
