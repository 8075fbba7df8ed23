"""Names that `src/utils` had in earlier versions: the source that was saved with an old run imports them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

# Module: where it is now, and names in it that are called otherwise
RENAMED: dict[str, tuple[str, dict[str, str]]] = {
    "src.utils.data": ("src.utils.tracking", {}),
    "src.utils.layout": ("src.utils.paths", {}),
    "src.utils.pictures": ("src.utils.figures", {}),
    "src.utils.score": ("src.utils.metrics", {"Score": "LossAndAccuracy"}),
    "src.utils.sweep.trial": ("src.utils.study.trial", {}),
}
METHODS = {"LossAndAccuracy": {"add": "update", "result": "compute"}}


class _Renamed(ModuleType):
    """A module under its earlier name; the present one is imported with the first use."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        place, names = RENAMED[self.__name__]
        found = getattr(import_module(place), names.get(name, name))
        methods = METHODS.get(names.get(name, ""), {})
        if not methods:
            return found
        return type(name, (found,), {old: getattr(found, new) for old, new in methods.items()})


@contextmanager
def earlier_names() -> Iterator[None]:
    """Within it, imports of earlier names are answered with what is there now."""
    added = {name: _Renamed(name) for name in RENAMED if name not in sys.modules}
    sys.modules.update(added)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]
