"""The source that was kept with a run: compared with today's, and imported as it was."""

import sys
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from src.utils.runs.earlier_versions import earlier_names


def same_code(one: Path, other: Path) -> bool:
    """Whether two folders hold the same Python files."""
    return _code(one) == _code(other)


def _code(folder: Path) -> dict[Path, bytes]:
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*.py")}


@cache
def contents(folder: Path) -> dict[Path, bytes]:
    """The files of an experiment as they were when this was first asked: the trials of a sweep run the
    code that was there when it began, whatever is edited meanwhile."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {
        file.relative_to(folder): file.read_bytes()
        for file in files
        if "__pycache__" not in file.parts
    }


def keep(folder: Path, copy: Path) -> None:
    """Write them elsewhere."""
    for name, content in contents(folder).items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(content)


def import_file(file: Path, name: str) -> ModuleType:
    """Import a file under a name of its own; it finds its siblings by their plain names."""
    spec = spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    sys.path.insert(0, str(file.parent))
    try:
        with earlier_names():
            spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(file.parent))
        _forget_siblings(file.parent, name)
    return module


def _forget_siblings(folder: Path, keep: str) -> None:
    """Another run's sibling of the same name must not be taken for this one's."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name != keep and file and Path(file).parent == folder:
            del sys.modules[name]
