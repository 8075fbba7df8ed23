"""The command `lab`: its entry point, and how mistakes are reported.

    poetry run lab --help
    poetry run python -m src.utils.lab.cli --help

The commands are declared in `commands/`, with arguments and help. What a command does is in a file
with its name beside this one, which is imported late: `lab --help` needs no torch.
"""

from src.utils.errors import UserError, exit_on_user_error
from src.utils.lab.commands import competition, machines, project, runs

import typer

UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # typer has no public name for it
lab = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
for subject in (runs, machines, competition, project):
    lab.add_typer(subject.commands.typer)


@lab.callback()
def check_environment(context: typer.Context) -> None:
    """List, compare, repeat, resume, export and clean up the runs of this project.

    RUN is an id or its start, a name of a run or study, latest or best; also model01/best, STUDY/7, GROUP/2.
    """
    from src.utils.lab.installation import refuse_code_of_another

    if context.invoked_subcommand != "doctor":
        refuse_code_of_another()


def app() -> None:
    """Run the command line; an error of the user is printed in one line."""
    with exit_on_user_error():
        try:
            status = lab(prog_name="lab", standalone_mode=False)
        except UsageError as error:
            raise _usage_error(error) from None
        except typer.Abort as abort:
            if isinstance(abort.__context__, EOFError):
                raise UserError("no terminal to answer from: type all arguments") from None
            raise KeyboardInterrupt from None
    raise SystemExit(status)


def _usage_error(error: Exception) -> BaseException:
    """typer's message in one line; without a command, typer has printed the help already."""
    message = getattr(error, "format_message", error.__str__)().rstrip(".")
    if not message:
        return SystemExit(2)
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "lab"
    return UserError(f"{message}{'' if message.endswith('?') else f': see {command} --help'}")


if __name__ == "__main__":
    app()
