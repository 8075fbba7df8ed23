"""`notify=`: word of a run or sweep that has ended, by a shell command or through a service of Apprise.

notify='notify-send "done"'    a shell command
notify=ntfy://my-topic         a URL of Apprise: chat, push, mail
JIKKEN_NOTIFY=slack://…        the same for all that a person starts, as an environment variable

What is typed goes before what config.yaml says, and that before the variable. A URL holds tokens, and nothing
may record them: what is typed is taken out of the command line before Hydra and MLflow see it, and
config.yaml may name shell commands alone.

When it is sent, and what: `src/utils/runs/outcome.py`.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from src.utils.errors import UserError, format_error
from src.utils.process import BUILDING, RERUN, WORKER, is_rank_zero

SETTING = "notify"
VARIABLE = "JIKKEN_NOTIFY"  # environment variable
TIMEOUT_VARIABLE, TIMEOUT = "JIKKEN_NOTIFY_TIMEOUT", 30.0  # seconds, for each target
URL = re.compile(r"\s*([a-zA-Z][a-zA-Z0-9+.-]*://)\S")
SERVICES = "https://github.com/caronc/apprise"
# Runs in a process of its own, which can be ended. stdin: no other process sees the URL, or the message
DELIVER = """
import json, logging, sys
import apprise

message, lines = json.load(sys.stdin), []
handler = logging.Handler(logging.WARNING)
handler.emit = lambda record: lines.append(record.getMessage())
apprise.logger.addHandler(handler)
kind = getattr(apprise.NotifyType, message.pop("kind"))
service = apprise.Apprise.instantiate(message.pop("url"))
if not service or not service.notify(**message, notify_type=kind):
    sys.exit(" ".join(lines[:1]) or "the service refused it")
"""


@dataclass
class Notifier:
    """Who is told when the command of this process has ended, and what it has begun."""

    typed: list[str] | None = None  # on the command line
    configured: list[str] = field(default_factory=list)  # in config.yaml
    has_begun: bool = False  # nothing is sent of a command that was refused
    runs: list[str] = field(default_factory=list)  # ids of the runs that it has opened, in order

    def begin(self, run_id: str | None = None) -> None:
        """Note that work has begun: a run, or the building of an input."""
        self.has_begun = True
        self.runs += [run_id] if run_id else []

    def configure(self, setting: Any) -> None:
        """Use what config.yaml says, a text or a list of texts."""
        self.configured = [setting] if isinstance(setting, str) else list(setting or [])

    @property
    def targets(self) -> list[str]:
        """The commands and URLs: those typed, or of config.yaml, or of the environment.

        Only what is typed counts for a rerun. An input that is built on the way, and the further processes of
        a distributed training, tell nobody.
        """
        if BUILDING in os.environ or not is_rank_zero():
            return []
        if self.typed is not None:
            return self.typed
        if RERUN in os.environ:
            return []
        if WORKER in os.environ and VARIABLE in os.environ:  # what was typed for its job
            return _parse(os.environ[VARIABLE])
        return self.configured or _parse(os.environ.get(VARIABLE, ""))


notifier = Notifier()


@dataclass(frozen=True)
class Message:
    """What is sent."""

    kind: str  # SUCCESS, WARNING or FAILURE, as Apprise names them
    title: str
    body: str
    values: Mapping[str, str]  # more environment variables of a shell command


def is_url(target: str) -> bool:
    """Whether a target is a URL; else it is a shell command."""
    return URL.match(target) is not None


def masked(target: str) -> str:
    """A target as it may be printed: of a URL the service alone, of a command its first word."""
    found = URL.match(target)
    first, *others = target.split(maxsplit=1) or [""]
    return f"{found[1]}…" if found else first + " …" * bool(others)


def without_typed(arguments: Iterable[str]) -> list[str]:
    """Command-line arguments without the overrides of `notify`."""
    return [one for one in arguments if not _is_typed(one)]


def take_typed(arguments: Sequence[str]) -> list[str]:
    """The same; what the overrides say is kept in `notifier`. Several of them add up."""
    for argument in filter(_is_typed, arguments):
        notifier.typed = (notifier.typed or []) + _parse(argument.partition("=")[2])
    return without_typed(arguments)


def _is_typed(argument: str) -> bool:
    name, equals, _ = argument.partition("=")
    return bool(equals) and name.lstrip("+") == SETTING


def _parse(value: str) -> list[str]:
    """The targets in a text: itself, or a list as Hydra has it, `[ntfy://topic,'say done']`."""
    from hydra.core.override_parser.overrides_parser import (
        OverridesParser,
    )  # late: few commands need it
    from hydra.core.override_parser.types import QuotedString
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(f"{SETTING}={value}")
    except HydraException:
        return [value]
    parsed = None if override.is_sweep_override() else override.value()
    if isinstance(parsed, list):
        return [str(one) for one in parsed]
    if isinstance(override._value, QuotedString):
        return [str(parsed)]
    return [value] if value.strip() not in ("", "null") else []


def check_targets() -> None:
    """Check what was typed, or is in the environment, before anything begins.

    Raises:
        UserError: Apprise is missing or does not know the URL, or the time limit is no number.
    """
    _timeout()
    source = VARIABLE if notifier.typed is None else SETTING
    for target in filter(is_url, notifier.targets):
        _check_url(target, source)


def _timeout() -> float:
    text = os.environ.get(TIMEOUT_VARIABLE, "")
    try:
        return float(text or TIMEOUT)
    except ValueError:
        raise UserError(
            f"{TIMEOUT_VARIABLE}={text} is refused: it is a number of seconds"
        ) from None


def _check_url(url: str, source: str) -> None:
    shown = f"{source}={masked(url)} is refused:"
    if find_spec("apprise") is None:
        raise UserError(f"{shown} it needs Apprise: poetry install --extras notify")
    import apprise  # late: it takes 0.3 s, and only a URL needs it

    apprise.logger.disabled = True  # one line says it
    if apprise.Apprise.instantiate(url) is None:
        raise UserError(
            f"{shown} Apprise has no such service, or the URL lacks a part; {SERVICES} has them all"
        )


def send(message: Message, targets: Iterable[str]) -> None:
    """Send a message. What can't be sent, or takes too long, is a warning of one line, and nothing else."""
    for target in targets:
        try:
            reason = _deliver(message, target) if is_url(target) else _run(message, target)
        except (Exception, KeyboardInterrupt) as error:
            reason = format_error(error)
        if reason:
            print(f"warning: {SETTING}={masked(target)} failed: {reason}", file=sys.stderr)


def _deliver(message: Message, url: str) -> str:
    """Send it through Apprise; returns why that failed."""
    values = {"url": url, "title": message.title, "body": message.body, "kind": message.kind}
    process = subprocess.Popen(
        [sys.executable, "-c", DELIVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )
    code, errors = _communicate(process, json.dumps(values))
    lines = errors.strip().splitlines()
    return "" if code == 0 else (lines[-1] if lines else f"exit code {code}")


def _run(message: Message, command: str) -> str:
    """Run a shell command, with the message in its environment and on stdin; returns why it failed."""
    texts = {"JIKKEN_TITLE": message.title, "JIKKEN_MESSAGE": message.body, **message.values}
    inherited = dict(os.environ)
    inherited.pop(RERUN, None)  # an experiment that the command runs is no rerun
    process = subprocess.Popen(
        ["/bin/sh", "-c", command],
        stdin=subprocess.PIPE,
        env=inherited | {name: text.replace("\0", "") for name, text in texts.items()},
        encoding="utf-8",
        start_new_session=True,
    )
    code, _ = _communicate(process, f"{message.title}\n{message.body}\n")
    return f"exit code {code}" if code else ""


def _communicate(process: "subprocess.Popen[str]", text: str) -> tuple[int, str]:
    """Give a process its input and wait for it. After the time limit it is killed, with its children."""
    try:
        _, errors = process.communicate(text, timeout=_timeout())
    except subprocess.TimeoutExpired:
        _kill(process)
        limit = f"cut off after {_timeout():g} s ({TIMEOUT_VARIABLE} sets another limit)"
        raise UserError(limit) from None
    except BaseException:  # Ctrl-C
        _kill(process)
        raise
    return process.returncode, errors or ""


def _kill(process: "subprocess.Popen[str]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
