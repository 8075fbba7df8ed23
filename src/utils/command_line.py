"""What is typed after a program's name, as Hydra's own parser reads it."""

import ast
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
    composed,
    composition_error,
    hydra_program,
)
from src.utils.config.trainer_arguments import limit_epochs
from src.utils.errors import UserError
from src.utils.paths import Experiment
from src.utils.pipeline.inputs import find_inputs
from src.utils.process import is_rank_zero
from src.utils.settings import Settings, TrainingSettings, as_text, as_typed, load_config, validated
from src.utils.store.location import local_database
from src.utils.store.reference import find_record

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from omegaconf import DictConfig, OmegaConf

LIGHT = {*sys.stdlib_module_names, "annotated_types", "pydantic", "typing_extensions"}
OURS = ("src.utils.settings", "src.utils.errors", "src.utils.paths")


@dataclass(frozen=True)
class CommandLine:
    """Options and overrides."""

    options: Namespace

    @classmethod
    def typed(cls) -> "CommandLine":
        """This process's own; UserError for options that Hydra does not have, or not together."""
        parser = get_args_parser()
        parser.error = _refuse  # type: ignore[method-assign]  # one line, without the usage
        line = cls(parser.parse_intermixed_args(sys.argv[1:]))
        line._check()
        return line

    @property
    def is_info_request(self) -> bool:
        """Whether it only asks about the program or its settings."""
        asked = self.options
        return bool(
            asked.help or asked.hydra_help or asked.cfg or asked.info or asked.shell_completion
        )

    @property
    def is_multirun(self) -> bool:
        """Whether it asks for many runs."""
        modes = [one for one in self.options.overrides if one.lstrip("+").startswith("hydra.mode=")]
        return bool(self.options.multirun or (modes and modes[-1].endswith("=MULTIRUN")))

    @property
    def uses_own_config(self) -> bool:
        """Whether its settings are those in the experiment's own folder."""
        asked = self.options
        return not (asked.config_path or asked.config_dir or asked.experimental_rerun)

    def one_run(self) -> list[str]:
        """The overrides of one run; with -m, of the first that it asks for."""
        if not self.is_multirun:
            return list(self.options.overrides)
        typed = [one for one in self.options.overrides if "hydra.mode=" not in one]
        return list(_first(OverridesParser.create().parse_overrides(typed)))

    def _check(self) -> None:
        asked = self.options
        commands = {
            "--run": asked.run,
            "--multirun": asked.multirun,
            "--cfg": asked.cfg,
            "--info": asked.info,
            "--shell-completion": asked.shell_completion,
        }
        typed = [name for name, value in commands.items() if value]
        if len(typed) > 1:
            raise UserError(f"{' and '.join(typed)} can't be asked for together: choose one")
        if asked.resolve and not (asked.cfg or asked.help):
            raise UserError("--resolve belongs to --cfg: --cfg job --resolve")


def _refuse(message: str) -> NoReturn:
    raise UserError(f"{message}: see --hydra-help")


def _first(overrides: Iterable[Override]) -> Iterator[str]:
    for one in overrides:
        if not one.is_sweep_override():
            yield str(one.input_line)
            continue
        values = one.value()
        key = one.get_key_element()
        if isinstance(values, IntervalSweep):
            yield f"{key}={values.start}"
        elif isinstance(values, ChoiceSweep | RangeSweep):
            yield f"{key}={next(iter(one.sweep_string_iterator()))}"


def typed_settings(experiment: Experiment, kind: type[Settings], cfg: DictConfig) -> Settings:
    """The composed settings as `kind`; UserError where they can't be."""
    _limit_epochs(experiment, cfg)
    names = [str(name) for name in cfg if name != "hydra"]
    settings = validated(kind, OmegaConf.masked_copy(cfg, names))
    find_inputs(settings)
    return settings


def _limit_epochs(experiment: Experiment, cfg: DictConfig) -> None:
    hydra = cfg.hydra if "hydra" in cfg else HydraConfig.get()
    typed = {one.lstrip("+").split("=")[0] for one in hydra.overrides.task}
    limit_epochs(cfg, typed, lambda: load_config(experiment.config / "config.yaml"))


def check_run(config: DictConfig) -> None:
    """UserError for what a single run can't be asked for."""
    check_hydra(config)
    if config.get("resume_study"):
        raise UserError("resume_study= resumes a search: add -m; resume_run= resumes a run")


def parse_command_line(kind: type[Settings] | None) -> CommandLine:
    """What was typed, with texts in quotes where Hydra needs them."""
    line = CommandLine.typed()
    if kind is not None:
        sys.argv[1:] = [as_text(argument, kind, line.is_multirun) for argument in sys.argv[1:]]
    return CommandLine.typed()


def check_before_import(
    experiment: Experiment, kind: type[Settings] | None, line: CommandLine
) -> None:
    """Refuses what can be refused without the program: in half a second, instead of after torch."""
    known = list((kind or TrainingSettings).model_fields)
    try:
        config = composed(experiment, line.one_run(), line.options.config_name or "config")
    except Exception as error:  # Hydra raises anything for a command line that it did not expect
        raise composition_error(error, experiment, known) from None
    try:
        (check_hydra if line.is_multirun else check_run)(config)
        settings = typed_settings(experiment, kind, config) if kind else None
    except COMPOSITION_ERRORS as error:
        raise composition_error(error, experiment, known) from None
    if local_database() is not None:  # it takes no MLflow to read
        check_store(experiment, settings)


def answer(experiment: Experiment) -> NoReturn:
    """`--help`, `--cfg` and shell completion, before torch is imported."""
    try:
        hydra_program(experiment, lambda cfg: None)()
    except Exception as error:
        raise composition_error(error, experiment, list(TrainingSettings.model_fields)) from None
    sys.exit()


def check_hydra(config: DictConfig) -> None:
    """UserError for settings of Hydra's own that it would fail on later, or leave files behind."""
    hydra = config.hydra
    if "check" not in (hydra.callbacks or {}):
        raise UserError("config/utils/hydra.yaml was taken out of the settings: no run without it")
    verbose = hydra.verbose
    names = verbose if OmegaConf.is_list(verbose) else [verbose]
    if not isinstance(verbose, bool) and not all(isinstance(name, str) for name in names):
        raise UserError(
            f"hydra.verbose={verbose} is refused: it should be true, false or loggers' names"
        )
    without = not is_rank_zero()  # Lightning starts the further processes of a training without one
    if hydra.output_subdir != ".hydra" and not (without and hydra.output_subdir is None):
        raise UserError(
            f"hydra.output_subdir={as_typed(hydra.output_subdir)} is refused: it should be .hydra, "
            "from where a run keeps its settings"
        )
    for name in ("job_logging", "hydra_logging"):
        logs = OmegaConf.to_container(hydra[name]) or {}
        assert isinstance(logs, dict)
        for key, level in _levels(logs, f"hydra.{name}"):
            if level not in logging.getLevelNamesMapping():
                known = ", ".join(logging.getLevelNamesMapping())
                raise UserError(f"{key}={level} is refused: it should be one of {known}")


def _levels(values: Mapping[Any, Any], place: str) -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _levels(value, f"{place}.{key}")
        elif key == "level" and isinstance(value, str) and "${" not in value:
            yield f"{place}.{key}", value


def check_output(folder: str) -> None:
    """Makes the folder of a run, as Hydra would do next; UserError where it can't be made."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError as error:
        raise UserError(f"hydra.run.dir={folder} can't be made: {error.strerror}") from None
    if not writable:
        raise UserError(f"hydra.run.dir={folder} can't be written to")


def check_store(experiment: Experiment, settings: Settings | None) -> None:
    """UserError where the MLflow store of `MLFLOW_TRACKING_URI` does not answer, or lacks the run that
    `resume_run` or `warm_start` names."""
    if local_database() is None:
        from src.utils.store.mlflow import open_store  # late: it imports MLflow, for seconds

        open_store()
    for name in ("resume_run", "warm_start"):
        reference = getattr(settings, name, None)
        if reference is not None:
            find_record(str(reference), str(experiment))


def settings_class(file: Path) -> type[Settings] | None:
    """The type of `cfg` in `@experiment def main(cfg, run)`; None where it needs more than its file says."""
    try:
        tree = ast.parse(file.read_text())
        name = _annotation(tree)
        needed = {name} if name else set()
        body = list(_needed(tree, needed))
        namespace: dict[str, Any] = {"__name__": file.stem, "__file__": str(file)}
        exec(compile(ast.Module(body, []), str(file), "exec"), namespace)
        found = namespace[str(name)]
    except Exception:  # it is found again, and told of, when the program is imported
        return None
    return found if isinstance(found, type) and issubclass(found, Settings) else None


def _annotation(tree: ast.Module) -> str | None:
    """The name of the class that `main` takes."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and _names(ast.List(node.decorator_list)) == {
            "experiment"
        }:
            annotation = node.args.args[0].annotation
            return annotation.id if isinstance(annotation, ast.Name) else None
    return None


def _needed(tree: ast.Module, names: set[str]) -> Iterator[ast.stmt]:
    """The statements that define `names`, and what these need in turn, in their order."""
    chosen: set[int] = set()
    before = -1
    while before != len(chosen):
        before = len(chosen)
        for number, node in enumerate(tree.body):
            if number not in chosen and names & _defined(node):
                chosen.add(number)
                names |= _names(node)
    for number in sorted(chosen):
        yield _light(tree.body[number], names)


def _defined(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return {node.name}
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return {one.id for one in targets if isinstance(one, ast.Name)}
    return set()


def _names(node: ast.AST) -> set[str]:
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}


def _light(node: ast.stmt, names: set[str]) -> ast.stmt:
    """An import without the names that nothing needs; ImportError where it is none of the quick ones."""
    if not isinstance(node, ast.Import | ast.ImportFrom):
        return node
    node.names = [one for one in node.names if (one.asname or one.name).split(".")[0] in names]
    imported = [one.name for one in node.names] if isinstance(node, ast.Import) else [node.module]
    for module in map(str, imported):
        if module.split(".")[0] not in LIGHT and module not in OURS:
            raise ImportError(module)
    return node


# MERGED execution/early: What a command line is answered with before torch is imported: an answer, or a refusal.
#
# The same is checked again when the program begins: its settings class may have needed more than its file.

# MERGED execution/checks: What is checked before anything is written, beside the types of the settings.

# MERGED execution/settings_class: The settings class of a program, read from its file without importing the program.
#
# A program imports torch, which takes seconds; its settings need only what stands around their class.
