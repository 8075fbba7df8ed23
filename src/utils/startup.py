"""What is set up before torch and Lightning are imported, so that programs start, run and exit fast.

OpenMP threads: by default they spin for milliseconds while they wait for each other. Where another process
wants the cores, a training then takes three to eight times as long. GOMP_SPINCOUNT lets them spin for some
microseconds, long enough for the pause between two operations, before they sleep.

Garbage collector: the imports make 600,000 objects that stay. Python would look through all of them again
and again during the imports (one second), and once more at exit (another second).

Ctrl-C: an interrupted import prints a traceback of some library, or ignores the interrupt. Until a program
begins, Ctrl-C and SIGTERM end the process immediately.

torchmetrics: Lightning needs two classes of it, but importing it imports all metrics, torchvision and
scipy, which takes more than a second. A lazy module loads these two classes alone, and the whole package
when anything else is accessed.
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
from src.utils.process import end_on_sigterm, exit_code

# The classes that Lightning imports from torchmetrics, and their modules
TORCHMETRICS_CLASSES = {
    "Metric": "torchmetrics.metric",
    "MetricCollection": "torchmetrics.collections",
}
# What Python does by itself; a shell may have let a program ignore Ctrl-C
HANDLERS = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


class LazyTorchmetrics(ModuleType):
    """torchmetrics before its `__init__.py` has run."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in TORCHMETRICS_CLASSES:
            import_module("torchmetrics.utilities")  # the order in which its own __init__ does it
            return getattr(import_module(TORCHMETRICS_CLASSES[name]), name)
        self.__class__ = ModuleType  # type: ignore[assignment]  # a plain module from here on
        assert self.__spec__ is not None and self.__spec__.loader is not None
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def defer_torchmetrics() -> None:
    """Put the lazy module into `sys.modules`."""
    spec = find_spec("torchmetrics")
    if spec is not None and "torchmetrics" not in sys.modules:
        module = sys.modules["torchmetrics"] = module_from_spec(spec)
        module.__class__ = LazyTorchmetrics
        module.__dict__["_logger"] = logging.getLogger("torchmetrics")  # its submodules import it


def pause_gc() -> None:
    """Disable the garbage collector during imports."""
    gc.disable()


def resume_gc() -> None:
    """Enable the garbage collector again, without the objects that exist already."""
    gc.freeze()
    gc.enable()
    atexit.register(gc.unfreeze)


def exit_on_interrupt() -> None:
    """Let Ctrl-C and SIGTERM end this process immediately, if it was started with an experiment's program."""
    script = getattr(sys.modules["__main__"], "__file__", None)
    is_program = script is not None and Experiment.of(script) is not None
    for number, handler in HANDLERS.items():
        if is_program and signal.getsignal(number) is handler:
            signal.signal(number, _exit_at_once)


def raise_on_interrupt() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again, as usual in Python, and SIGTERM SystemExit."""
    if signal.getsignal(signal.SIGINT) is _exit_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGTERM) is _exit_at_once:
        signal.signal(signal.SIGTERM, end_on_sigterm)


def exit_on_sigterm() -> None:
    """Let SIGTERM end this process immediately: all is done, and Python only frees memory."""
    if signal.getsignal(signal.SIGTERM) is end_on_sigterm:
        signal.signal(signal.SIGTERM, lambda number, _: os._exit(exit_code(number)))


def _exit_at_once(number: int, _: object) -> None:
    os.write(2, b"interrupted before it began\n")
    os._exit(exit_code(number))


class FastExit:
    """Whether the process ends without freeing what it has imported: set after a run without errors."""

    enabled = False


@atexit.register  # exit handlers run in reverse order: registered early, this one runs last
def _exit_fast() -> None:
    if FastExit.enabled and not hasattr(sys, "last_value"):  # no exception since
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


exit_on_interrupt()
os.environ.setdefault("GOMP_SPINCOUNT", "5000")
defer_torchmetrics()
