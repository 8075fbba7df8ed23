"""`@experiment` makes `def main(cfg, run)` a program: Hydra reads the command line, MLflow tracks the run.

The settings of `src/model/model01/…py` are in `config/model/model01`. The experiment is named after its
folder and nowhere else, so a copied folder is a new experiment.

This is the first import of every experiment. While it is imported, `--help` and the like are printed and
mistakes in the command line are refused, before the experiment imports torch.
"""

import atexit
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from src.utils.startup import FastExit, exit_on_sigterm, pause_gc, raise_on_interrupt, resume_gc

# From here on Ctrl-C ends the program without a traceback.
# isort: split
from src.utils.command_line import (
    CommandLine,
    check_before_import,
    check_is_searchable,
    check_single_run,
    check_store,
    make_output_folder,
    print_info,
    settings_from_config,
)
from src.utils.config.composition import COMPOSITION_ERRORS, composition_error, hydra_main
from src.utils.config.settings_class import read_settings_class, settings_class_of
from src.utils.config.sweep_settings import SearchSweeperConf, study_directions
from src.utils.config.trainer_arguments import check_trainer_arguments
from src.utils.config.worker_settings import remote_workers
from src.utils.errors import UserError, exit_on_user_error, library_error_line, traceback_from
from src.utils.notification import SETTING as NOTIFY
from src.utils.notification import check_targets, notifier
from src.utils.paths import NO_STAGES, ROOT, Experiment, display_path, find_other_project
from src.utils.process import WORKER
from src.utils.runs.join import enter_launch, keep_no_log, refuse_launch
from src.utils.runs.outcome import notified
from src.utils.runs.source_code import reads_attribute
from src.utils.settings import ModelSettings, Settings, TrainingSettings
from src.utils.study.trial import PRUNED, Pruned

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.plugins.plugin import Plugin
from hydra.types import RunMode
from omegaconf import DictConfig

Main = Callable[[Any, Any], Any]


def experiment(main: Main) -> "Program":
    """Decorate `def main(cfg: SomeSettings, run: Run)`. Calling the result runs the command line.

    A model without settings of its own may leave out both types: its cfg is then of the class ModelSettings.
    What `main` returns is the objective of a search: a number, or a list of them. What makes data returns
    nothing.
    """
    return Program(main)


class Program:
    """An experiment's `main` as a program."""

    defined: ClassVar["Program | None"] = None  # the last one that @experiment has made
    running: ClassVar["Program | None"] = None  # the one that was called in this process

    def __init__(self, main: Main) -> None:
        self.main = main
        self.file = Path(main.__code__.co_filename)
        with exit_on_user_error():
            self.settings_class = settings_class_of(main)
        self.run_started = False
        Program.defined = self

    @property
    def experiment(self) -> Experiment:
        """The experiment whose folder the file is in.

        Raises:
            UserError: the file is in no such folder, or in that of another checkout.
        """
        experiment = Experiment.of(self.file)
        other = find_other_project(self.file)
        if other is not None:
            raise UserError(
                f"{display_path(self.file)} belongs to {other}, but {sys.executable} imports the code of "
                f"{ROOT}: type {other}/.venv/bin/python, which bash {other}/scripts/setup.sh makes"
            )
        if experiment is None:
            raise UserError(
                f"{display_path(self.file)} is in no src/<stage>/<name> folder; a stage has a Python name, "
                f"not {', '.join(sorted(NO_STAGES))}"
            )
        return experiment

    def __call__(self) -> None:
        """Run what the command line asks for: one run, or with -m a sweep."""
        Program.running = self
        resume_gc()
        raise_on_interrupt()
        with ExitStack() as at_end, exit_on_user_error():
            at_end.callback(exit_on_sigterm)
            line = CommandLine.parse(self.settings_class)
            with notified(self.experiment, line.is_multirun):
                try:
                    if WORKER in os.environ and not line.is_multirun:
                        from src.utils.runs.run_of_job import take_up_run  # late: it imports MLflow

                        take_up_run(self.experiment)
                    plugins = _sweep_plugins() if line.is_multirun else ()
                    hydra_main(self.experiment, self.run, plugins)()
                except Exception as error:
                    raise self._readable_error(error) from error.__cause__
        FastExit.enabled = True

    def run(self, cfg: DictConfig) -> Any:
        """Execute one run with a composed config. Hydra and its launchers call it.

        Returns:
            What `main` returned; `PRUNED` for a pruned trial; None for what makes data.

        Raises:
            UserError: the run is a job of a sweep, and its settings are refused.
        """
        from src.utils.runs.execute import execute  # late: nothing before this needs MLflow

        settings = settings_from_config(self.experiment, self.settings_class, cfg)
        is_single = HydraConfig.get().mode == RunMode.RUN  # a sweep handles the errors of its jobs
        self.run_started = is_single
        with exit_on_user_error() if is_single else nullcontext():  # Hydra would add a line
            try:
                return execute(self.experiment, self.main, self._run_group, settings)
            except Pruned:
                return PRUNED
            except Exception as error:
                line = library_error_line(error, self.file) if is_single else None
                if line is None:
                    raise
                print(f"error: {line}", file=sys.stderr)
                sys.exit(1)

    def _run_group(self, settings: Any, typed: Any, run: Any) -> Any:
        """Run the members of a group in place of `main`."""
        from src.utils.groups.group import run_group  # late: it imports launchers, and matplotlib

        score = self.main.__globals__.get("score")
        return run_group(self.run, score, settings, typed, run)

    def check(self, cfg: DictConfig) -> Settings:
        """Validate a composed config with all that can be checked before a run; return the settings.

        Raises:
            UserError: the experiment, Lightning or the MLflow store refuses a setting.
        """
        settings = settings_from_config(self.experiment, self.settings_class, cfg)
        if isinstance(settings, TrainingSettings):
            is_elsewhere = remote_workers(settings) is not None
            check_trainer_arguments(settings.trainer, without_hardware=is_elsewhere)
        if isinstance(settings, ModelSettings):
            self._check_folds(settings)
        check_store(self.experiment, settings)
        return settings

    def _check_folds(self, settings: ModelSettings) -> None:
        if settings.folds > 1 and not reads_attribute(self.experiment.source, "fold"):
            raise UserError(
                f"folds={settings.folds} is refused: src/{self.experiment} never reads run.fold, so all "
                f"folds would be the same run; seeds={settings.folds} repeats it with other seeds"
            )

    def _readable_error(self, error: Exception) -> Exception:
        """A UserError for a mistake in the settings, else the error with the experiment's traceback."""
        if isinstance(error, COMPOSITION_ERRORS) and not self.run_started:
            return composition_error(error, self.experiment, list(self.settings_class.model_fields))
        return error.with_traceback(traceback_from(self.file, error.__traceback__))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle it as its file: launchers send it to other processes."""
        return load_program, (str(self.file),)


def _sweep_plugins() -> Sequence[type[Plugin]]:
    from src.utils.sweep.launcher import ForkLauncher  # late: they import Optuna
    from src.utils.sweep.sweeper import SearchSweeper

    return ForkLauncher, SearchSweeper


class CheckSettings(Callback):
    """Hydra callback that refuses bad settings before Hydra makes a folder (config/utils/hydra.yaml)."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Check the settings of a single run."""
        from src.utils.config.json_schema import refresh_schema  # late: --help doesn't need it

        program = Program.running
        if program is None:
            return
        with exit_on_user_error():
            try:
                settings = program.check(config)
                check_single_run(config)
                enter_launch(program.experiment, settings, config)
                keep_no_log(config)
                notifier.configure(config.get(NOTIFY))
                _submit_run(program.experiment, settings)
                make_output_folder(config.hydra.run.dir)
                refresh_schema(program.experiment, program.settings_class)
            except COMPOSITION_ERRORS as error:
                raise program._readable_error(error) from None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Check what every sweep needs, whichever sweeper runs it, before that sweeper is made."""
        program = Program.running
        if program is None:
            return
        with exit_on_user_error():
            refuse_launch("-m")
            check_is_searchable(program.experiment, program.settings_class)
            notifier.configure(config.get(NOTIFY))
            # A resumed study has its directions already
            if "direction" in config.hydra.sweeper and not config.get("resume_study"):
                study_directions(config)
            if config.hydra.sweeper._target_ != SearchSweeperConf._target_:
                notifier.begin()  # Hydra's own sweepers have no run of their own


def _submit_run(experiment: Experiment, settings: Settings) -> None:
    """Submit a single run and exit, if `workers` says so."""
    workers = remote_workers(settings)
    if workers is not None:
        from src.utils.workers.submit import Submission  # late: few runs need it

        submission = Submission(experiment, settings, workers)
        submission.check(is_search=False)
        submission.submit_run()
        sys.exit()


def load_program(file: str) -> Program:
    """Find the program in a file. Imports the file unless this process has imported it."""
    for name in ("__main__", "__mp_main__"):
        module = sys.modules.get(name)
        if module is not None and getattr(module, "__file__", None) == file:
            return _program_in(module)
    return _program_in(_import_file(file))


def _import_file(file: str) -> ModuleType:
    spec = spec_from_file_location(Path(file).stem, file)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = module_from_spec(spec)
    sys.path.insert(0, str(Path(file).parent))  # for its siblings, as when the file is run
    spec.loader.exec_module(module)
    return module


def _program_in(module: ModuleType) -> Program:
    return next(value for value in vars(module).values() if isinstance(value, Program))


def _before_import() -> None:
    """Handle the command line while the experiment's first line is imported, before it imports torch."""
    script = getattr(sys.modules["__main__"], "__file__", None)
    experiment = Experiment.of(script) if script else None
    if script is None or experiment is None:
        return
    with exit_on_user_error():
        settings_class = read_settings_class(Path(script))
        if CommandLine.parse().is_info_request:
            print_info(experiment, settings_class)
        experiment.check_name()
        line, settings = CommandLine.parse(settings_class), None
        check_targets()
        if line.uses_own_config:
            settings = check_before_import(experiment, settings_class, line)
    atexit.register(_report_never_called, script)
    if sys.stderr.isatty() and "LOCAL_RANK" not in os.environ:  # once in a distributed training
        print(f"{experiment}: importing …", file=sys.stderr)
    pause_gc()
    is_group = getattr(settings, "is_group", False)
    if (line.is_multirun or is_group) and remote_workers(settings) is None:
        from src.utils.sweep.launcher import start_fork_server

        start_fork_server()  # it imports torch at the same time as this process


def _report_never_called(script: str) -> None:
    """At exit, report a program that has not called its `main`."""
    program = Program.defined
    if program is None or Program.running is not None or hasattr(sys, "last_value"):
        return
    if program.file.resolve() == Path(script).resolve():
        name = program.main.__name__
        print(
            f"error: {program.file.name} never calls {name}: its last lines should be "
            f'`if __name__ == "__main__":` and `    {name}()`',
            file=sys.stderr,
            flush=True,
        )
        os._exit(2)


_before_import()
