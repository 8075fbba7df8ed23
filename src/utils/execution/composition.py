"""How Hydra composes the settings of an experiment: where it looks, and what names mean there."""

import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from src.utils.layout import ROOT, Experiment
from src.utils.settings import flat
from src.utils.sweep import config as sweep_config

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

# What a config may name as `_target_`: an override can't make the program call anything else.
TRUSTED = ("src.utils.*", "optuna.*", "hydra_plugins.*", "hydra._internal.*")
MISCOMPOSED = (HydraException, OmegaConfBaseException, YAMLError)  # mistakes in settings
QUESTIONS = (
    "-h",
    "--help",
    "--hydra-help",
    "-c",
    "--cfg",
    "-i",
    "--info",
    "-sc",
    "--shell-completion",
)


_running: Experiment | None = None  # whom the resolver `experiment` names


class SharedConfig(SearchPathPlugin):
    """Lets `config/model/model01` begin with `/training`.

    No wider than config/utils: with `feature` as a group, `feature=feature02` would choose a file.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="jikken", path=f"file://{ROOT / 'config' / 'utils'}")


def hydra_program(here: Experiment, task: Callable[..., Any]) -> Callable[[], None]:
    """`task` as a Hydra command whose settings are the mirror of its folder."""
    _register(here)
    if asks_sweep(sys.argv[1:]):
        from src.utils.sweep.launcher import ForkLauncher  # late: they import Optuna
        from src.utils.sweep.sweeper import SearchSweeper

        Plugins.instance().register(ForkLauncher)
        Plugins.instance().register(SearchSweeper)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, unprinted
    decorate = hydra.main(
        config_path=str(here.config), config_name="config", execution_whitelist=TRUSTED
    )
    program: Callable[[], None] = decorate(task)
    return program


def defaults(here: Experiment) -> dict[str, str] | None:
    """What its settings are when nothing is typed, by dotted name; None where it can't be composed."""
    return composed(here, [])


def composed(
    here: Experiment, overrides: list[str], config_name: str = "config"
) -> dict[str, str] | None:
    """What its settings are when `overrides` are typed, by dotted name, without its code; None where
    they can't be composed, as when half an experiment is written."""
    if not (here.config / f"{config_name}.yaml").exists():
        return None
    try:
        with _registered(here), initialize_config_dir(str(here.config)):
            values = OmegaConf.to_container(compose(config_name, overrides), resolve=True)
    except MISCOMPOSED:
        return None
    assert isinstance(values, dict)
    return {name: str(value) for name, value in flat({str(k): v for k, v in values.items()})}


@contextmanager
def _registered(here: Experiment) -> Iterator[None]:
    """For a moment, `${experiment:}` and Hydra's global state are not those of this process's program."""
    hydra_now, running = GlobalHydra.instance().hydra, _running
    GlobalHydra.instance().clear()
    _register(here)
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = hydra_now
        if running is not None:
            _register(running)


def asks_question(arguments: list[str]) -> bool:
    """Whether a command line only asks about the program or its settings."""
    return any(re.split("=", argument)[0] in QUESTIONS for argument in arguments)


def asks_sweep(arguments: list[str]) -> bool:
    """Whether a command line asks for many runs."""
    return "-m" in arguments or "--multirun" in arguments


def _register(here: Experiment) -> None:
    global _running  # noqa: PLW0603  # resolvers are global, too
    _running = here
    Plugins.instance().register(SharedConfig)
    sweep_config.register()
    resolve = OmegaConf.register_resolver
    resolve("root", lambda: str(ROOT), replace=True)
    resolve("experiment", lambda: str(here), replace=True)
    resolve("moment", _moment, use_cache=True, replace=True)


def _moment() -> str:
    """A folder name that two runs never share, even when they start in the same second."""
    return f"{datetime.now():%Y-%m-%d/%H-%M-%S}-{secrets.token_hex(2)}"
