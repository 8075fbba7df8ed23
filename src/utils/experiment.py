"""`@experiment` makes `def main(cfg, run)` a Hydra program inside a tracked run.

Its settings are the mirror of its own folder: `src/model/model01/…py` reads `config/model/model01`.
Nothing names the experiment, so a copied folder is a new one.
"""

import atexit
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, get_type_hints

from src.utils.startup import FastExit, Interrupts, freeze_imports, pause_collector

# From here on Ctrl-C ends the program without a traceback.
# isort: split
from traceback import walk_tb
from types import TracebackType

from src.utils.command_line import (
    CommandLine,
    answer,
    check_before_import,
    check_output,
    check_run,
    check_store,
    parse_command_line,
    settings_class,
    typed_settings,
)
from src.utils.config.composition import COMPOSITION_ERRORS, composition_error, hydra_program
from src.utils.config.sweep_settings import directions
from src.utils.config.trainer_arguments import check_trainer_arguments
from src.utils.errors import UserError, one_line, plain_errors
from src.utils.paths import STAGES, Experiment, display_path
from src.utils.settings import Settings, TrainingSettings
from src.utils.study.trial import PRUNED, Pruned

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.plugins.plugin import Plugin
from hydra.types import RunMode
from omegaconf import DictConfig

Main = Callable[[Any, Any], Any]
VALUES = (RuntimeError, ValueError, OSError, MemoryError, ArithmeticError)
LIGHTNING = "MisconfigurationException"  # by name: Lightning may not have been imported
LOOPS = "pytorch_lightning.loops"


class Program:
    """An experiment's `main` as a command."""

    made: ClassVar["Program | None"] = None
    running: ClassVar["Program | None"] = None

    def __init__(self, main: Main) -> None:
        self.main = main
        self.file = Path(main.__code__.co_filename)
        self.settings: type[Settings] = get_type_hints(main)["cfg"]
        self.began = False
        Program.made = self

    def __call__(self) -> None:
        """Reads the command line: one run, or with -m a sweep."""
        Program.running = self
        freeze_imports()
        Interrupts.raised_again()
        with plain_errors():
            line = parse_command_line(self.settings)
            try:
                plugins = _sweep_plugins() if line.is_multirun else ()
                hydra_program(self.experiment, self.run, plugins)()
            except Exception as error:
                raise self._told(error) from error.__cause__
        FastExit.at_once = True

    def run(self, cfg: DictConfig) -> Any:
        """One execution with a composed config: what Hydra and its launchers call."""
        from src.utils.runs.execute import execute  # late: nothing before this needs MLflow

        settings = typed_settings(self.experiment, self.settings, cfg)
        alone = HydraConfig.get().mode == RunMode.RUN  # else the sweep hears of errors
        self.began = alone
        with plain_errors() if alone else nullcontext():  # Hydra would add a line of its own
            try:
                return execute(self.experiment, self.main, settings)
            except Pruned:
                return PRUNED
            except Exception as error:
                line = wrong_value(error, self.file) if alone else None
                if line is None:
                    raise
                print(f"error: {line}", file=sys.stderr)
                sys.exit(1)

    def check(self, cfg: DictConfig) -> Settings:
        """The settings, typed; UserError where they are not what the experiment asks for."""
        settings = typed_settings(self.experiment, self.settings, cfg)
        if isinstance(settings, TrainingSettings):
            check_trainer_arguments(settings.trainer)
        check_store(self.experiment, settings)
        return settings

    def _told(self, error: Exception) -> Exception:
        """As it is told at the terminal: a mistake in the settings, or a bug."""
        if isinstance(error, COMPOSITION_ERRORS) and not self.began:
            return composition_error(error, self.experiment, list(self.settings.model_fields))
        return error.with_traceback(from_file(self.file, error.__traceback__))

    def __reduce__(self) -> tuple[Any, ...]:
        """Launchers send it to other processes, which find it by its file."""
        return load_program, (str(self.file),)

    @property
    def experiment(self) -> Experiment:
        experiment = Experiment.of(self.file)
        if experiment is None:
            stages = ", ".join(STAGES)
            raise UserError(
                f"{display_path(self.file)} is in no src/<stage>/<name> folder: the stages are {stages}"
            )
        return experiment


class CheckSettings(Callback):
    """Refuses bad settings before Hydra makes a folder."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        program = Program.running
        if program is None:
            return
        with plain_errors():
            try:
                program.check(config)
                check_run(config)
                check_output(config.hydra.run.dir)
            except COMPOSITION_ERRORS as error:
                raise program._told(error) from None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """What is refused of any `-m`, whichever sweeper runs it, before that sweeper is made."""
        program = Program.running
        if program is None:
            return
        with plain_errors():
            if program.experiment.stage != "model":
                raise UserError(
                    f"-m searches the settings of a model; {program.experiment} makes data, and each run would "
                    "replace what the one before made: run it without -m"
                )
            if "direction" in config.hydra.sweeper and not config.get("resume_study"):  # else later
                directions(config)


def experiment(main: Main) -> Program:
    """Decorates `def main(cfg: SomeSettings, run: Run)`; calling the result reads the command line."""
    return Program(main)


def load_program(file: str) -> Program:
    """The program in a file, which is imported unless this process has it already."""
    for name in ("__main__", "__mp_main__"):
        module = sys.modules.get(name)
        if module is not None and getattr(module, "__file__", None) == file:
            return _program_in(module)
    return _program_in(_imported(file))


def _imported(file: str) -> ModuleType:
    spec = spec_from_file_location(Path(file).stem, file)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = module_from_spec(spec)
    sys.path.insert(0, str(Path(file).parent))  # for its siblings, as when it is run
    spec.loader.exec_module(module)
    return module


def _program_in(module: ModuleType) -> Program:
    return next(value for value in vars(module).values() if isinstance(value, Program))


def _begin() -> None:
    """What is done while the first line of a program is imported, before it imports torch."""
    script = getattr(sys.modules["__main__"], "__file__", None)
    experiment = Experiment.of(script) if script else None
    if script is None or experiment is None:
        return
    with plain_errors():
        if CommandLine.typed().is_info_request:
            answer(experiment)
        kind = settings_class(Path(script))
        line = parse_command_line(kind)
        if line.uses_own_config:
            check_before_import(experiment, kind, line)
    atexit.register(_tell_if_never_called, script)
    if sys.stderr.isatty() and "LOCAL_RANK" not in os.environ:  # one of several processes is enough
        print(f"{experiment}: importing …", file=sys.stderr)
    pause_collector()
    if line.is_multirun:
        from src.utils.sweep.launcher import start_fork_server

        start_fork_server()  # it imports torch while this process still does


def _sweep_plugins() -> Sequence[type[Plugin]]:
    from src.utils.sweep.launcher import ForkLauncher  # late: they import Optuna
    from src.utils.sweep.sweeper import SearchSweeper

    return ForkLauncher, SearchSweeper


def _tell_if_never_called(script: str) -> None:
    made = Program.made
    if made is None or Program.running is not None or hasattr(sys, "last_value"):
        return
    if made.file.resolve() == Path(script).resolve():
        name = made.main.__name__
        print(
            f"error: {made.file.name} never calls {name}: its last lines should be "
            f'`if __name__ == "__main__":` and `    {name}()`',
            file=sys.stderr,
            flush=True,
        )
        os._exit(2)


def wrong_value(error: Exception, file: Path) -> str | None:
    """The line for an error that a library raised outside a training; None for any other."""
    if not isinstance(error, VALUES) and type(error).__name__ != LIGHTNING:
        return None
    frames = list(walk_tb(error.__traceback__))
    own = [at for at in frames if Path(at[0].f_code.co_filename).is_relative_to(file.parent)]
    if not own or own[-1] is frames[-1]:
        return None
    if any(str(frame.f_globals.get("__name__")).startswith(LOOPS) for frame, _ in frames):
        return None
    frame, number = own[-1]
    place = f"{Path(frame.f_code.co_filename).name}:{number}"
    notes = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))
    return f"{type(error).__name__}: {one_line(error)} ({place}{notes})"


def from_file(file: Path, frames: TracebackType | None) -> TracebackType | None:
    """A traceback that begins in the experiment, without Hydra's own frames."""
    inner = frames.tb_next if frames else None  # the first is always the file: its last line
    while inner and inner.tb_frame.f_code.co_filename != str(file):
        inner = inner.tb_next
    return inner or frames


_begin()

# MERGED execution/failure: How a failure of an experiment's own `main` is told.
#
# What a library refuses while data, model and trainer are made is mostly a setting: one line, with the
# line of the experiment that asked for it. A mistake in the experiment's code, and whatever happens while it
# trains, keeps its traceback, which begins in the experiment. The whole one is always in the run's files.
