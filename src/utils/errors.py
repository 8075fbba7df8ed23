"""Errors for the person at the terminal: one line, no traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake that a person can mend: one line, saying what is wrong and what to do."""


def one_line(text: object) -> str:
    """A message of several lines as one."""
    return " ".join(str(text).split())


def reason(error: BaseException) -> str:
    """Why, in the first line of an exception, or of the driver's that it wraps."""
    return str(getattr(error, "orig", None) or error).strip().split("\n")[0]


@contextmanager
def plain_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Ends the program with one line for a UserError or one of `kinds`; bugs keep their traceback."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if not isinstance(error, (UserError, *kinds)):
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
