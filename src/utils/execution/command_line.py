"""What is typed after a program's name, as Hydra's own parser reads it."""

import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NoReturn

from src.utils.errors import UserError

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep


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
    def asks_question(self) -> bool:
        """Whether it only asks about the program or its settings."""
        asked = self.options
        return bool(
            asked.help or asked.hydra_help or asked.cfg or asked.info or asked.shell_completion
        )

    @property
    def asks_sweep(self) -> bool:
        """Whether it asks for many runs."""
        modes = [one for one in self.options.overrides if one.lstrip("+").startswith("hydra.mode=")]
        return bool(self.options.multirun or (modes and modes[-1].endswith("=MULTIRUN")))

    @property
    def is_usual(self) -> bool:
        """Whether its settings are those in the experiment's own folder."""
        asked = self.options
        return not (asked.config_path or asked.config_dir or asked.experimental_rerun)

    def one_run(self) -> list[str]:
        """The overrides of one run; with -m, of the first that it asks for."""
        if not self.asks_sweep:
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
