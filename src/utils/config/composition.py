"""Hydra's composition of an experiment's settings: search path, resolvers, plugins, and errors.

`hydra_main` runs a program with its settings; `compose_config` and `compose_values` compose them without one.
"""

import os
import re
import secrets
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from src.utils.config import sweep_settings
from src.utils.config.trainer_arguments import argument_names, unknown_argument
from src.utils.errors import UserError, first_line, one_line
from src.utils.paths import LOGS, ROOT, Experiment, display_path
from src.utils.settings import flatten, unknown_setting

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException
from hydra.plugins.plugin import Plugin
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

# What a config may name as `_target_`: no override can make the program call anything else
TRUSTED = ("src.utils.*", "optuna.*", "hydra_plugins.*", "hydra._internal.*")
FIRST_LINE = "its first line should be `defaults: [/model]`, or with /training or /stage"
# What a mistake in the settings raises
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, YAMLError)

_current: Experiment | None = None  # the value of the resolver `experiment`


class SharedConfig(SearchPathPlugin):
    """Adds config/utils to the search path, so that `config/model/model01` can begin with `/training`.

    Not config/: `feature` would be a config group then, and `feature=feature02` would choose a file.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="jikken", path=f"file://{ROOT / 'config' / 'utils'}")


def hydra_main(
    experiment: Experiment, task: Callable[..., Any], plugins: Sequence[type[Plugin]] = ()
) -> Callable[[], None]:
    """Decorate `task` with `@hydra.main`, with the experiment's folder in `config` as its config path.

    Args:
        plugins: launchers and sweepers to register with Hydra
    """
    _register(experiment)
    for plugin in plugins:
        Plugins.instance().register(plugin)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises errors instead of printing them
    decorate = hydra.main(
        config_path=str(experiment.config), config_name="config", execution_whitelist=TRUSTED
    )
    program: Callable[[], None] = decorate(task)
    return program


def compose_config(
    experiment: Experiment, overrides: list[str], name: str = "config"
) -> DictConfig:
    """Compose the settings of one run, with the node `hydra`.

    `composition_error` explains what it raises. A missing folder of the search path is an error, too.
    """
    with (
        _registered(experiment),
        warnings.catch_warnings(),
        initialize_config_dir(str(experiment.config), job_name=str(experiment)),
    ):
        warnings.filterwarnings("error", ".* is not available", UserWarning)
        return compose(name, overrides, return_hydra_config=True)


def compose_values(
    experiment: Experiment, overrides: list[str], name: str = "config"
) -> dict[str, str] | None:
    """Compose the settings with these overrides, as text by dotted name.

    Returns:
        None if they can't be composed, for example while the user is still writing the experiment.
    """
    if not (experiment.config / f"{name}.yaml").exists():
        return None
    try:
        with _registered(experiment), initialize_config_dir(str(experiment.config)):
            values = OmegaConf.to_container(compose(name, overrides), resolve=True)
    except COMPOSITION_ERRORS:
        return None
    assert isinstance(values, dict)
    return {key: str(value) for key, value in flatten({str(k): v for k, v in values.items()})}


def default_values(experiment: Experiment) -> dict[str, str] | None:
    """Compose the settings without overrides, as `compose_values`."""
    return compose_values(experiment, [])


@contextmanager
def _registered(experiment: Experiment) -> Iterator[None]:
    """Set the resolvers to this experiment, and restore them and Hydra's global state afterwards."""
    hydra_before, experiment_before = GlobalHydra.instance().hydra, _current
    GlobalHydra.instance().clear()
    _register(experiment)
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = hydra_before
        if experiment_before is not None:
            _register(experiment_before)


def _register(experiment: Experiment) -> None:
    """Register plugins, configs and the resolvers that config/utils/hydra.yaml uses."""
    global _current  # noqa: PLW0603  # resolvers are global, too
    _current = experiment
    Plugins.instance().register(SharedConfig)
    sweep_settings.register()
    resolver = OmegaConf.register_resolver
    resolver("root", lambda: str(ROOT), replace=True)
    resolver("logs", lambda: str(LOGS), replace=True)
    resolver("experiment", lambda: str(experiment), replace=True)
    resolver("moment", _moment, use_cache=True, replace=True)


def _moment() -> str:
    """A folder name from the time. The suffix tells runs apart that start in the same second."""
    return f"{datetime.now():%Y-%m-%d/%H-%M-%S}-{secrets.token_hex(2)}"


def composition_error(error: Exception, experiment: Experiment, known: list[str]) -> UserError:
    """The UserError for an error of the composition, with the most similar names for an unknown setting.

    Args:
        known: names of the experiment's settings
    """
    match = re.match(r"Could not override '([\w.]+)'", str(error))
    if (match or isinstance(error, MissingConfigException)) and not _has_defaults(experiment):
        file = display_path(experiment.config / "config.yaml")
        return UserError(f"{file} is missing or has no defaults: {FIRST_LINE}")
    if match is None:
        return UserError(_with_cause(error))
    parent, _, key = match[1].rpartition(".")
    if parent == "trainer" and parent not in known:
        return UserError(unknown_setting(match[1], known))
    if parent == "trainer":
        return UserError(
            f"trainer.{key} is not set yet: +trainer.{key}=… adds it"
            if key in argument_names()
            else unknown_argument(key)
        )
    if not parent and key in known:
        return UserError(f"{key} is not in the settings that were composed: +{key}=… adds it")
    names = known if not parent else _names_in(experiment, parent)
    if not names:
        return UserError(_with_cause(error))
    return UserError(unknown_setting(match[1], [f"{parent}.{name}".lstrip(".") for name in names]))


def _has_defaults(experiment: Experiment) -> bool:
    """Whether the experiment has a config.yaml with a list of defaults."""
    file = experiment.config / "config.yaml"
    return file.exists() and bool(re.search(r"^defaults *:", file.read_text(), re.MULTILINE))


def _names_in(experiment: Experiment, parent: str) -> list[str]:
    """The names in a node of the experiment's composed config."""
    try:
        node = OmegaConf.select(compose_config(experiment, []), parent)
    except COMPOSITION_ERRORS:
        return []
    return [str(name) for name in node] if OmegaConf.is_dict(node) else []


def _with_cause(error: Exception) -> str:
    """The message of an error, with its cause: Hydra's own message may lack the reason."""
    text, cause = one_line(error).partition(" Config search path:")[0], error.__cause__
    reason = first_line(cause) if cause else ""
    if not isinstance(error, COMPOSITION_ERRORS):
        text = f"these settings can't be composed: {type(error).__name__}: {text}"
    return text if not reason or reason in text else f"{text}: {reason}".lstrip(": ")
