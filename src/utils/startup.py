"""What has to be done before torch and Lightning are imported, so that they start, run and end fast.

Threads: OpenMP's threads spin while they wait for each other, for milliseconds. Where something else
wants the cores, another run or a browser, a training then takes three to eight times as long. They spin
for some microseconds here: long enough for the pause between two operations, and then they sleep.

Garbage: six hundred thousand objects are imported, and stay. Python looks through all of them for
garbage, over and over while they are imported (a second), and again when it ends (another one).

Ctrl-C: an import that is interrupted prints a traceback of a library that nobody has asked for, or goes on
as if nothing had happened. Until a program begins, the process ends at once instead.

torchmetrics: `import pytorch_lightning` asks torchmetrics for two classes. torchmetrics answers by importing
all its metrics, and with them torchvision and scipy: more than a second. It gets a front here that
fetches those two classes alone, and the whole package as soon as anything else is asked of it.
"""

import atexit
import gc
import logging
import os
import signal
import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

from src.utils.paths import Experiment

LIGHT = {"Metric": "torchmetrics.metric", "MetricCollection": "torchmetrics.collections"}


class LazyTorchmetrics(ModuleType):
    """torchmetrics before its `__init__` has run."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in LIGHT:
            import_module("torchmetrics.utilities")  # the order in which its own __init__ does it
            return getattr(import_module(LIGHT[name]), name)
        self.__class__ = ModuleType  # type: ignore[assignment]  # a plain module from here on
        assert self.__spec__ is not None and self.__spec__.loader is not None
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def defer_torchmetrics() -> None:
    """Put the front in its place."""
    spec = find_spec("torchmetrics")
    if spec is not None and "torchmetrics" not in sys.modules:
        front = sys.modules["torchmetrics"] = module_from_spec(spec)
        front.__class__ = LazyTorchmetrics
        front.__dict__["_logger"] = logging.getLogger("torchmetrics")  # its modules ask for it


def pause_collector() -> None:
    """While a program imports."""
    gc.disable()


def freeze_imports() -> None:
    """What is there by now is never garbage."""
    gc.freeze()
    gc.enable()
    atexit.register(gc.unfreeze)


class Interrupts:
    """What Ctrl-C does while a program is imported."""

    @classmethod
    def end_at_once(cls) -> None:
        """In a process that was started with a program of the repository."""
        script = getattr(sys.modules["__main__"], "__file__", None)
        is_program = script is not None and Experiment.of(script) is not None
        if is_program and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, cls._end)

    @classmethod
    def raised_again(cls) -> None:
        """Python's own way, from when the program begins."""
        if signal.getsignal(signal.SIGINT) == cls._end:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    @classmethod
    def _end(cls, *_: object) -> None:
        os.write(2, b"interrupted before it began\n")
        os._exit(128 + signal.SIGINT)


class FastExit:
    """How the process ends: at once where all went well, without taking apart what it has imported."""

    at_once = False


@atexit.register  # early, so that it is called last
def _leave() -> None:
    if FastExit.at_once and not hasattr(sys, "last_value"):  # no exception since
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


Interrupts.end_at_once()
os.environ.setdefault("GOMP_SPINCOUNT", "5000")
defer_torchmetrics()
