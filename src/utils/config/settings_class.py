"""The settings class of an experiment: what it is, and whether the experiment makes data or is a model.

It is known before the experiment is imported, which may import torch and take seconds. It needs only a few
statements of the file, and these are executed alone.
"""

import ast
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeGuard, get_type_hints

from src.utils.errors import UserError
from src.utils.paths import Experiment
from src.utils.settings import ModelSettings, Settings, StageSettings

# What these statements may import: nothing that is slow
LIBRARIES = {*sys.stdlib_module_names, "annotated_types", "pydantic", "typing_extensions"}
OWN_MODULES = {"src.utils.settings", "src.utils.errors", "src.utils.paths"}


def read_settings_class(file: Path) -> type[Settings] | None:
    """The class that `settings_class_of` finds once the experiment is imported.

    Returns:
        None if it cannot be read this way: it needs another import, or the file has an error. The import of
        the experiment then finds the class, or reports the error.
    """
    try:
        tree = ast.parse(file.read_text())
        annotation = _annotation_of_cfg(tree)
        if annotation is None:
            return ModelSettings
        name = annotation.id if isinstance(annotation, ast.Name) else None
        body = list(_statements_for(tree, {name} if name else set()))
        namespace: dict[str, Any] = {"__name__": file.stem, "__file__": str(file)}
        exec(compile(ast.Module(body, []), str(file), "exec"), namespace)
        settings_class = namespace[str(name)]
    except Exception:  # anything can be in a file
        return None
    is_class = isinstance(settings_class, type) and issubclass(settings_class, Settings)
    return settings_class if is_class else None


def settings_class_of(main: Callable[..., Any]) -> type[Settings]:
    """The type of `cfg` in `def main(cfg, run)`; ModelSettings if it has none.

    Raises:
        UserError: the type is no class of settings, or `main` takes something else.
    """
    signature = inspect.signature(main)
    if len(signature.parameters) == 2:
        found = get_type_hints(main).get(next(iter(signature.parameters)), ModelSettings)
        if isinstance(found, type) and issubclass(found, Settings):
            return found
    raise UserError(
        f"{main.__name__}{signature} should be main(cfg: Config, run), with "
        "class Config(ModelSettings), or TrainingSettings or StageSettings, above it"
    )


def makes_data(experiment: Experiment, settings_class: type[Settings]) -> bool:
    """Whether an experiment with these settings makes data for others to read; else it is a model.

    A class of neither tier, `Config(Settings)`, makes data in the stages `dataset` and `feature`.
    """
    if issubclass(settings_class, StageSettings | ModelSettings):
        return issubclass(settings_class, StageSettings)
    return experiment.stage in ("dataset", "feature")


def _annotation_of_cfg(tree: ast.Module) -> ast.expr | None:
    (main,) = (node for node in tree.body if _is_experiment(node))
    return main.args.args[0].annotation


def _is_experiment(node: ast.stmt) -> TypeGuard[ast.FunctionDef]:
    if not isinstance(node, ast.FunctionDef):
        return False
    return _names_used(ast.List(node.decorator_list)) == {"experiment"}


def _statements_for(tree: ast.Module, names: set[str]) -> Iterator[ast.stmt]:
    """The statements that define `names`, and those that they need in turn, in the file's order."""
    chosen: set[int] = set()
    before = -1
    while before != len(chosen):
        before = len(chosen)
        for number, node in enumerate(tree.body):
            if number not in chosen and names & _names_defined(node):
                chosen.add(number)
                names |= _names_used(node)
    for number in sorted(chosen):
        node = tree.body[number]
        yield _reduced(node, names) if isinstance(node, ast.Import | ast.ImportFrom) else node


def _names_defined(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {_imported_name(alias) for alias in node.names}
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return {node.name}
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return {target.id for target in targets if isinstance(target, ast.Name)}
    return set()


def _names_used(node: ast.AST) -> set[str]:
    return {child.id for child in ast.walk(node) if isinstance(child, ast.Name)}


def _imported_name(alias: ast.alias) -> str:
    return (alias.asname or alias.name).split(".")[0]


def _reduced(node: ast.Import | ast.ImportFrom, names: set[str]) -> ast.stmt:
    """The import without unneeded names; ImportError if its module may be slow to import."""
    node.names = [alias for alias in node.names if _imported_name(alias) in names]
    modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
    for module in map(str, modules):
        if module.split(".")[0] not in LIBRARIES and module not in OWN_MODULES:
            raise ImportError(module)
    return node
