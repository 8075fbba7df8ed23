"""The settings class of a program, read from its file without importing the program.

A program imports torch, which takes seconds; its settings need only what stands around their class.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from src.utils.settings import Settings

LIGHT = {*sys.stdlib_module_names, "annotated_types", "pydantic", "typing_extensions"}
OURS = ("src.utils.settings", "src.utils.errors", "src.utils.layout")


def settings_class(file: Path) -> type[Settings] | None:
    """The type of `cfg` in `@experiment def main(cfg, run)`; None where it needs more than its file says."""
    try:
        tree = ast.parse(file.read_text())
        name = _annotation(tree)
        needed = {name} if name else set()
        body = list(_needed(tree, needed))
        namespace: dict[str, Any] = {"__name__": file.stem, "__file__": str(file)}
        exec(compile(ast.Module(body, []), str(file), "exec"), namespace)
        found = namespace[str(name)]
    except Exception:  # it is found again, and told of, when the program is imported
        return None
    return found if isinstance(found, type) and issubclass(found, Settings) else None


def _annotation(tree: ast.Module) -> str | None:
    """The name of the class that `main` takes."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and _names(ast.List(node.decorator_list)) == {
            "experiment"
        }:
            annotation = node.args.args[0].annotation
            return annotation.id if isinstance(annotation, ast.Name) else None
    return None


def _needed(tree: ast.Module, names: set[str]) -> Iterator[ast.stmt]:
    """The statements that define `names`, and what these need in turn, in their order."""
    chosen: set[int] = set()
    before = -1
    while before != len(chosen):
        before = len(chosen)
        for number, node in enumerate(tree.body):
            if number not in chosen and names & _defined(node):
                chosen.add(number)
                names |= _names(node)
    for number in sorted(chosen):
        yield _light(tree.body[number], names)


def _defined(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return {node.name}
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return {one.id for one in targets if isinstance(one, ast.Name)}
    return set()


def _names(node: ast.AST) -> set[str]:
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}


def _light(node: ast.stmt, names: set[str]) -> ast.stmt:
    """An import without the names that nothing needs; ImportError where it is none of the quick ones."""
    if not isinstance(node, ast.Import | ast.ImportFrom):
        return node
    node.names = [one for one in node.names if (one.asname or one.name).split(".")[0] in names]
    imported = [one.name for one in node.names] if isinstance(node, ast.Import) else [node.module]
    for module in map(str, imported):
        if module.split(".")[0] not in LIGHT and module not in OURS:
            raise ImportError(module)
    return node
