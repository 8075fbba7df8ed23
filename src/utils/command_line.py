"""The command line of an experiment: parsed by Hydra's own parser, and checked before anything is written.

--help, --cfg, --info, completion    printed before torch is imported
a mistake in an override             refused before torch is imported, if the settings class can be read
all checks                           repeated when the program begins, before Hydra makes a folder
"""

import logging
import os
import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from src.utils.config.composition import (
    COMPOSITION_ERRORS,
    FIRST_LINE,
    compose_config,
    composition_error,
    hydra_main,
)
from src.utils.config.overrides import override_key
from src.utils.config.settings_class import makes_data
from src.utils.config.trainer_arguments import lift_epoch_limit
from src.utils.errors import UserError
from src.utils.notification import take_typed
from src.utils.paths import Experiment
from src.utils.pipeline.inputs import find_inputs
from src.utils.process import is_rank_zero
from src.utils.settings import (
    Settings,
    TrainingSettings,
    format_override_value,
    load_config,
    quote_text,
    validate_config,
)
from src.utils.store.location import local_database
from src.utils.store.reference import find_record

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from omegaconf import DictConfig, OmegaConf


@dataclass(frozen=True)
class CommandLine:
    """The options and overrides of a command line."""

    options: Namespace  # as Hydra's parser makes them; `overrides` is one of them

    @classmethod
    def parse(cls, settings_class: type[Settings] | None = None) -> "CommandLine":
        """Parse `sys.argv`. What is typed for `notify` is taken out of it.

        Args:
            settings_class: the experiment's; the values of its text settings are quoted in `sys.argv`

        Raises:
            UserError: Hydra does not have such an option, or options exclude each other.
        """
        sys.argv[1:] = take_typed(sys.argv[1:])
        line = cls._parse_once()
        if settings_class is None:
            return line
        sys.argv[1:] = [quote_text(text, settings_class, line.is_multirun) for text in sys.argv[1:]]
        return cls._parse_once()

    @classmethod
    def _parse_once(cls) -> "CommandLine":
        parser = get_args_parser()
        parser.error = _refuse  # type: ignore[method-assign]  # one line, without the usage
        line = cls(parser.parse_intermixed_args(sys.argv[1:]))
        line._check_options()
        return line

    def _check_options(self) -> None:
        options = self.options
        commands = {
            "--run": options.run,
            "--multirun": options.multirun,
            "--cfg": options.cfg,
            "--info": options.info,
            "--shell-completion": options.shell_completion,
        }
        given = [name for name, value in commands.items() if value]
        if len(given) > 1:
            raise UserError(f"{' and '.join(given)} can't be combined: choose one")
        if options.resolve and not (options.cfg or options.help):
            raise UserError("--resolve belongs to --cfg: --cfg job --resolve")

    @property
    def is_info_request(self) -> bool:
        """Whether it asks for help, settings or completion instead of a run."""
        options = self.options
        help_requested = options.help or options.hydra_help
        return bool(help_requested or options.cfg or options.info or options.shell_completion)

    @property
    def is_multirun(self) -> bool:
        """Whether it asks for a sweep, with -m or with hydra.mode=MULTIRUN."""
        overrides = self.options.overrides
        modes = [text for text in overrides if override_key(text) == "hydra.mode"]
        return bool(self.options.multirun or (modes and modes[-1].endswith("=MULTIRUN")))

    @property
    def uses_own_config(self) -> bool:
        """Whether the settings come from the experiment's own folder in `config`."""
        options = self.options
        return not (options.config_path or options.config_dir or options.experimental_rerun)

    def first_run(self) -> list[str]:
        """The overrides of the run; with -m, of its first run."""
        if not self.is_multirun:
            return list(self.options.overrides)
        overrides = [one for one in self.options.overrides if override_key(one) != "hydra.mode"]
        return list(_first_values(OverridesParser.create().parse_overrides(overrides)))


def _refuse(message: str) -> NoReturn:
    raise UserError(f"{message}: see --hydra-help")


def _first_values(overrides: Iterable[Override]) -> Iterator[str]:
    """The overrides, with the first value of each sweep; a `glob` is left out."""
    for override in overrides:
        if not override.is_sweep_override():
            yield str(override.input_line)
            continue
        sweep = override.value()
        key = override.get_key_element()
        if isinstance(sweep, IntervalSweep):
            yield f"{key}={sweep.start}"
        elif isinstance(sweep, ChoiceSweep | RangeSweep):
            yield f"{key}={next(iter(override.sweep_string_iterator()))}"


def print_info(experiment: Experiment, settings_class: type[Settings] | None) -> NoReturn:
    """Let Hydra print what `--help`, `--cfg`, `--info` or completion asks for, and exit.

    Args:
        settings_class: the experiment's; None if it can't be read before the import

    Raises:
        UserError: the settings can't be composed.
    """
    try:
        hydra_main(experiment, lambda cfg: None)()
    except Exception as error:
        known = list((settings_class or TrainingSettings).model_fields)
        raise composition_error(error, experiment, known) from None
    sys.exit()


def check_before_import(
    experiment: Experiment, settings_class: type[Settings] | None, line: CommandLine
) -> Settings | None:
    """Check a command line before the experiment is imported: in half a second, without torch.

    Args:
        settings_class: the experiment's; None if it can't be read before the import

    Returns:
        The settings; None without a settings class.

    Raises:
        UserError: the settings can't be composed, are invalid, or name a run that does not exist.
    """
    known = list((settings_class or TrainingSettings).model_fields)
    try:
        config = compose_config(experiment, line.first_run(), line.options.config_name or "config")
    except Exception as error:  # Hydra raises errors of any type for an unexpected command line
        raise composition_error(error, experiment, known) from None
    try:
        (check_hydra_settings if line.is_multirun else check_single_run)(config)
        settings = None
        if settings_class is not None:
            if line.is_multirun:
                check_is_searchable(experiment, settings_class)
            settings = settings_from_config(experiment, settings_class, config)
    except COMPOSITION_ERRORS as error:
        raise composition_error(error, experiment, known) from None
    if local_database() is not None:  # which is read without MLflow
        check_store(experiment, settings)
    return settings


def settings_from_config(
    experiment: Experiment, settings_class: type[Settings], cfg: DictConfig
) -> Settings:
    """Convert a composed config to the experiment's settings class.

    Raises:
        UserError: settings are invalid, or name an input that does not exist, or the experiment itself.
    """
    hydra = cfg.hydra if "hydra" in cfg else HydraConfig.get()
    overridden = {override_key(override) for override in hydra.overrides.task}
    lift_epoch_limit(cfg, overridden, lambda: load_config(experiment.config / "config.yaml"))
    names = [str(name) for name in cfg if name != "hydra"]
    settings = validate_config(settings_class, OmegaConf.masked_copy(cfg, names))
    if experiment in find_inputs(settings):
        raise UserError(
            f"{experiment.stage}={experiment.name} is refused: {experiment} would read itself"
        )
    return settings


def check_single_run(config: DictConfig) -> None:
    """Check the settings of a run without -m.

    Raises:
        UserError: `resume_study` is set, or one of Hydra's own settings is invalid.
    """
    check_hydra_settings(config)
    if config.get("resume_study"):
        raise UserError("resume_study= resumes a search: add -m; resume_run= resumes a run")


def check_is_searchable(experiment: Experiment, settings_class: type[Settings]) -> None:
    """Check that -m runs a model.

    Raises:
        UserError: the experiment makes data.
    """
    if makes_data(experiment, settings_class):
        raise UserError(
            f"-m searches the settings of a model; {experiment} makes data, and each run would replace what "
            "the one before made: run it without -m"
        )


def check_hydra_settings(config: DictConfig) -> None:
    """Check those of Hydra's own settings on which it would fail late, with files left behind.

    Raises:
        UserError: a setting is invalid, or config/utils/hydra.yaml is not among the defaults.
    """
    hydra = config.hydra
    if "check" not in (hydra.callbacks or {}):
        raise UserError(
            f"config.yaml has no defaults that lead to config/utils/hydra.yaml: {FIRST_LINE}"
        )
    verbose = hydra.verbose
    names = verbose if OmegaConf.is_list(verbose) else [verbose]
    if not isinstance(verbose, bool) and not all(isinstance(name, str) for name in names):
        raise UserError(
            f"hydra.verbose={verbose} is refused: it should be true, false or loggers' names"
        )
    # Lightning starts the other processes of a distributed training without an output_subdir
    may_be_null = not is_rank_zero()
    if hydra.output_subdir != ".hydra" and not (may_be_null and hydra.output_subdir is None):
        value = format_override_value(hydra.output_subdir)
        raise UserError(
            f"hydra.output_subdir={value} is refused: it should be .hydra, from where a run keeps its "
            "settings"
        )
    for name in ("job_logging", "hydra_logging"):
        _check_log_levels(hydra[name], f"hydra.{name}")


def _check_log_levels(logging_config: DictConfig, name: str) -> None:
    values = OmegaConf.to_container(logging_config) or {}
    assert isinstance(values, dict)
    known = logging.getLevelNamesMapping()
    for key, level in _log_levels(values, name):
        if level not in known:
            raise UserError(f"{key}={level} is refused: it should be one of {', '.join(known)}")


def _log_levels(values: Mapping[Any, Any], parent: str) -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _log_levels(value, f"{parent}.{key}")
        elif key == "level" and isinstance(value, str) and "${" not in value:
            yield f"{parent}.{key}", value


def make_output_folder(folder: str) -> None:
    """Make the folder of a run, as Hydra would do next.

    Raises:
        UserError: it can't be made or written to.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError as error:
        raise UserError(f"hydra.run.dir={folder} can't be made: {error.strerror}") from None
    if not writable:
        raise UserError(f"hydra.run.dir={folder} can't be written to")


def check_store(experiment: Experiment, settings: Settings | None) -> None:
    """Check that MLflow's tracking store can be reached and has the runs that the settings name.

    Raises:
        UserError: the store of `MLFLOW_TRACKING_URI` can't be reached, or has no run that `resume_run` or
            `warm_start` names.
    """
    if local_database() is None:
        from src.utils.store.mlflow import open_store  # late: MLflow takes seconds to import

        open_store()
    for name in ("resume_run", "warm_start"):
        reference = getattr(settings, name, None)
        if reference is not None:
            find_record(str(reference), str(experiment))
