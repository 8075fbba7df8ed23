"""The source code that is saved with a run: copying it, comparing it with today's, importing it."""

import ast
import sys
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from src.utils.runs.earlier_versions import earlier_names


@cache
def source_files(folder: Path) -> dict[Path, bytes]:
    """The content of each file of an experiment, by relative path, as of the first call.

    All trials of a sweep run the code that was there when the sweep began, whatever is edited meanwhile.
    """
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {
        file.relative_to(folder): file.read_bytes()
        for file in files
        if "__pycache__" not in file.parts
    }


def copy_source(folder: Path, copy: Path) -> None:
    """Write the files of an experiment into another folder."""
    for name, content in source_files(folder).items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(content)


def same_code(folder: Path, other: Path) -> bool:
    """Whether two folders hold the same Python files."""
    return _python_files(folder) == _python_files(other)


def _python_files(folder: Path) -> dict[Path, bytes]:
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*.py")}


def defines(program: Path, function: str) -> bool:
    """Whether a program has a function of this name at top level.

    `load` reads what the program has saved, for `load_model`; `score` is the metric of a competition.
    """
    if not program.is_file():
        return False
    body = ast.parse(program.read_text()).body
    return any(isinstance(node, ast.FunctionDef) and node.name == function for node in body)


def reads_attribute(folder: Path, name: str) -> bool:
    """Whether a Python file of an experiment reads an attribute of this name, as in `run.fold`."""
    trees = (ast.parse(file.read_bytes()) for file in folder.rglob("*.py"))
    nodes = (node for tree in trees for node in ast.walk(tree))
    return any(isinstance(node, ast.Attribute) and node.attr == name for node in nodes)


def import_file(file: Path, name: str) -> ModuleType:
    """Import a file as the module `name`. The file may import its siblings by their plain names."""
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
    """The next run may have siblings of the same names, which must not be mistaken for these."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name != keep and file and Path(file).parent == folder:
            del sys.modules[name]
