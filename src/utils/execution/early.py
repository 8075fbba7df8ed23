"""What a command line is answered with before torch is imported: an answer, or a refusal.

The same is checked again when the program begins: its settings class may have needed more than its file.
"""

import sys
from typing import NoReturn

from src.utils.errors import UserError
from src.utils.execution.checks import check_hydra, check_store
from src.utils.execution.command_line import CommandLine
from src.utils.execution.composition import MISCOMPOSED, composed, hydra_program, miscomposed
from src.utils.execution.sources import sources_of
from src.utils.execution.trainer_arguments import limit_epochs
from src.utils.layout import Experiment
from src.utils.settings import Settings, TrainingSettings, as_text, load_config, validated
from src.utils.store.address import local_database

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf


def typed_settings(here: Experiment, kind: type[Settings], cfg: DictConfig) -> Settings:
    """The composed settings as `kind`; UserError where they can't be."""
    _limit_epochs(here, cfg)
    names = [str(name) for name in cfg if name != "hydra"]
    settings = validated(kind, OmegaConf.masked_copy(cfg, names))
    sources_of(settings)
    return settings


def _limit_epochs(here: Experiment, cfg: DictConfig) -> None:
    hydra = cfg.hydra if "hydra" in cfg else HydraConfig.get()
    typed = {one.lstrip("+").split("=")[0] for one in hydra.overrides.task}
    limit_epochs(cfg, typed, lambda: load_config(here.config / "config.yaml"))


def check_run(config: DictConfig) -> None:
    """UserError for what a single run can't be asked for."""
    check_hydra(config)
    if config.get("resume"):
        raise UserError("resume= goes on with a search: add -m; resume_run= goes on with a run")


def typed_line(kind: type[Settings] | None) -> CommandLine:
    """What was typed, with texts in quotes where Hydra needs them."""
    line = CommandLine.typed()
    if kind is not None:
        sys.argv[1:] = [as_text(argument, kind, line.asks_sweep) for argument in sys.argv[1:]]
    return CommandLine.typed()


def check_early(here: Experiment, kind: type[Settings] | None, line: CommandLine) -> None:
    """Refuses what can be refused without the program: in half a second, instead of after torch."""
    known = list((kind or TrainingSettings).model_fields)
    try:
        config = composed(here, line.one_run(), line.options.config_name or "config")
    except Exception as error:  # Hydra raises anything for a command line that it did not expect
        raise miscomposed(error, here, known) from None
    try:
        (check_hydra if line.asks_sweep else check_run)(config)
        settings = typed_settings(here, kind, config) if kind else None
    except MISCOMPOSED as error:
        raise miscomposed(error, here, known) from None
    if local_database() is not None:  # it takes no MLflow to read
        check_store(here, getattr(settings, "resume_run", None))


def answer(here: Experiment) -> NoReturn:
    """`--help`, `--cfg` and shell completion, before torch is imported."""
    try:
        hydra_program(here, lambda cfg: None)()
    except Exception as error:
        raise miscomposed(error, here, list(TrainingSettings.model_fields)) from None
    sys.exit()
