"""`@experiment` makes `def main(cfg, run)` a Hydra program inside a tracked run.

Its settings are the mirror of its own folder: `src/model/model01/…py` reads `config/model/model01`.
Nothing names the experiment, so a copied folder is a new one.
"""

import re
import sys
from collections.abc import Callable
from contextlib import nullcontext
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, ClassVar, get_type_hints

from src.utils.errors import UserError, plain_errors
from src.utils.execution.composition import MISCOMPOSED, asks_question, asks_sweep, hydra_program
from src.utils.layout import STAGES, Experiment, near
from src.utils.settings import Settings, as_text, unknown, validated
from src.utils.startup import Departure, keep_imports, pause_collector
from src.utils.sweep.trial import PRUNED, Pruned

from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

Main = Callable[[Any, Any], Any]


class Program:
    """An experiment's `main` as a command."""

    running: ClassVar["Program | None"] = None

    def __init__(self, main: Main) -> None:
        self.main = main
        self.file = Path(main.__code__.co_filename)
        self.settings: type[Settings] = get_type_hints(main)["cfg"]

    def __call__(self) -> None:
        """Reads the command line: one run, or with -m a sweep."""
        Program.running = self
        sys.argv[1:] = [as_text(argument, self.settings) for argument in sys.argv[1:]]
        keep_imports()
        with plain_errors(*MISCOMPOSED):
            try:
                hydra_program(self.here, self.run)()
            except ConfigCompositionException as error:
                raise _named(error, self.settings) from None
            except Exception as error:
                raise error.with_traceback(
                    _from_file(self.file, error.__traceback__)
                ) from error.__cause__
        Departure.at_once = True

    def run(self, cfg: DictConfig) -> Any:
        """One execution with a composed config: what Hydra and its launchers call."""
        from src.utils.execution.stages import execute  # late: nothing before this needs MLflow

        alone = HydraConfig.get().mode == RunMode.RUN  # else the sweep hears of errors
        with plain_errors() if alone else nullcontext():
            try:
                return execute(self.here, self.main, self.check(cfg))
            except Pruned:
                return PRUNED

    def check(self, cfg: DictConfig) -> Settings:
        """The settings, typed; UserError where they are not what the experiment asks for."""
        names = [str(name) for name in cfg if name != "hydra"]
        return validated(self.settings, OmegaConf.masked_copy(cfg, names))

    def __reduce__(self) -> tuple[Any, ...]:
        """Launchers send it to other processes, which find it by its file."""
        return load_program, (str(self.file),)

    @property
    def here(self) -> Experiment:
        here = Experiment.of(self.file)
        if here is None:
            stages = ", ".join(STAGES)
            raise UserError(
                f"{near(self.file)} is in no src/<stage>/<name> folder: the stages are {stages}"
            )
        return here


class CheckSettings(Callback):
    """Refuses bad settings before Hydra makes a folder."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        if Program.running is not None:
            with plain_errors():
                Program.running.check(config)
                if config.get("resume"):
                    raise UserError(
                        "resume= goes on with a search: add -m; resume_run= goes on with a run"
                    )


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


def _named(error: ConfigCompositionException, settings: type[Settings]) -> Exception:
    """An unknown key, with its nearest names, instead of Hydra's hint to add it."""
    match = re.match(r"Could not override '(\w+)'", str(error))
    if match:
        return UserError(unknown(match[1], list(settings.model_fields)))
    return error


def _from_file(file: Path, frames: TracebackType | None) -> TracebackType | None:
    """A traceback that begins in the experiment, without Hydra's own frames."""
    inner = frames.tb_next if frames else None  # the first is always the file: its last line
    while inner and inner.tb_frame.f_code.co_filename != str(file):
        inner = inner.tb_next
    return inner or frames


def _own_script() -> Experiment | None:
    """The experiment whose program this process was started with."""
    script = getattr(sys.modules["__main__"], "__file__", None)
    return Experiment.of(script) if script else None


def _answer_questions() -> None:
    """`--help`, `--cfg` and shell completion are answered while the experiment's first line is
    imported: before torch, in a fraction of a second."""
    here = _own_script()
    if here is not None and asks_question(sys.argv[1:]):
        with plain_errors(*MISCOMPOSED):
            hydra_program(here, lambda cfg: None)()
        sys.exit()


def _warm_up() -> None:
    """A sweep's fork server imports torch while the sweep itself still does."""
    if asks_sweep(sys.argv[1:]) and _own_script() is not None:
        from src.utils.sweep.launcher import start_server

        start_server()


_answer_questions()
if _own_script() is not None:
    pause_collector()
_warm_up()
