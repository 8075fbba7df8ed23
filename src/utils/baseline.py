"""What an experiment does when nothing is typed: the values of its config.yaml, composed by Hydra."""

from functools import cache

from src.utils import sweep_config
from src.utils.composition import SharedConfig
from src.utils.condition import number
from src.utils.entry import Entry
from src.utils.layout import Experiment
from src.utils.settings import flat

from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

NOT_COMPARED = ("seed", "note", "tags", "resume", "resume_run", "fork", "force")


def defaults(experiment: str) -> dict[str, str] | None:
    """Every setting by its dotted name; None where there is no such experiment any more."""
    stage, _, name = experiment.partition("/")
    here = Experiment(stage, name)
    if not (here.config / "config.yaml").exists():
        return None
    _introduce()
    try:
        with initialize_config_dir(str(here.config)):
            values = OmegaConf.to_container(compose("config"), resolve=True)
    except (HydraException, OmegaConfBaseException):  # as when half an experiment is written
        return None
    assert isinstance(values, dict)
    return {name: str(value) for name, value in flat({str(k): v for k, v in values.items()})}


def departures(one: Entry, base: dict[str, str]) -> dict[str, str]:
    """The settings in which a run departed from the defaults, each once."""
    changed = {
        name: value
        for name, value in one.params.items()
        if name not in NOT_COMPARED and not _equal(value, base.get(name))
    }
    return {
        name: value
        for name, value in changed.items()
        if "." not in name or changed.get(name.split(".")[-1]) != value
    }


@cache
def _introduce() -> None:
    """Makes Hydra know what configs of this repository may name."""
    Plugins.instance().register(SharedConfig)
    sweep_config.register()


def _equal(value: str, other: str | None) -> bool:
    if other is None or value == other:
        return value == other
    left, right = number(value), number(other)
    return left is not None and left == right
