"""The part of some source files that one class needs, as a package of its own.

Of the model's file, its siblings and src/utils, only what the class refers to is taken, with the
comments in it; imports among these files become relative. What remains needs no Hydra and no MLflow.
"""

import ast
import re
from dataclasses import dataclass, field
from pathlib import Path

from src.utils.layout import ROOT

UTILS = ROOT / "src" / "utils"
ALL = "*"  # instead of names: the whole module
Definition = ast.stmt


@dataclass
class Part:
    """A source file, and what is needed of it."""

    file: Path
    folder: Path  # of the experiment
    names: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.lines = self.file.read_text().splitlines()
        self.body = ast.parse(self.file.read_text()).body
        self.defined = {name: node for node in self.body for name in _defined(node)}
        self.imported = {
            alias.asname or alias.name.split(".")[0]: (node, alias)
            for node in self.body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }

    @property
    def module(self) -> str:
        """Its name in the package."""
        return f"utils.{self.file.stem}" if self.file.parent == UTILS else self.file.stem

    def need(self, names: set[str]) -> bool:
        """Take these names, and all that they refer to; whether any of it is new."""
        wanted = set(self.defined) if ALL in names else names
        before, waiting = len(self.names), list(wanted - self.names)
        while waiting:
            name = waiting.pop()
            self.names.add(name)
            node = self.defined.get(name)
            parts = ast.walk(node) if node else ()
            used = {one.id for one in parts if isinstance(one, ast.Name)}
            waiting += (used & (self.defined.keys() | self.imported.keys())) - self.names
        return len(self.names) > before

    def borrowed(self) -> dict[Path, set[str]]:
        """What is imported from files that come along, by file."""
        found: dict[Path, set[str]] = {}
        for name in sorted(self.names & self.imported.keys()):
            origin = self._origin(*self.imported[name])
            if origin is not None:
                found.setdefault(origin[0], set()).add(origin[1])
        return found

    def text(self) -> str:
        """The file as it is in the package."""
        borrowed, own = self.names & self.imported.keys(), self.names & self.defined.keys()
        imports = sorted(self._spelled(*self.imported[name]) for name in borrowed)
        futures = [f"from __future__ import {name}" for name in self._futures()]
        nodes = sorted({self.defined[name] for name in own}, key=lambda node: node.lineno)
        head = [f'"""What the model needs of {self.file.name}."""', "", *futures, *imports]
        return "\n\n\n".join(["\n".join(head), *map(self._source, nodes)]) + "\n"

    def _futures(self) -> list[str]:
        found = [node for node, _ in self.imported.values() if isinstance(node, ast.ImportFrom)]
        named = [node for node in found if node.module == "__future__"]
        return [alias.name for node in named for alias in node.names]

    def _origin(
        self, node: ast.Import | ast.ImportFrom, alias: ast.alias
    ) -> tuple[Path, str] | None:
        """The file that an import means, and the name there; None for a library."""
        name = alias.name
        if isinstance(node, ast.Import):
            file = self._file(name)
            return (file, ALL) if file else None
        module = node.module or ""
        whole = self._file(f"{module}.{name}")  # from src.utils import study
        if whole:
            return whole, ALL
        file = self._file(module)
        return (file, name) if file else None

    def _file(self, module: str) -> Path | None:
        inside = re.fullmatch(r"src\.utils\.(\w+)", module)
        file = UTILS / f"{inside[1]}.py" if inside else self.folder / f"{module}.py"
        return file if file.is_file() else None

    def _spelled(self, node: ast.Import | ast.ImportFrom, alias: ast.alias) -> str:
        origin = self._origin(node, alias)
        if origin is None:
            one = (
                ast.Import([alias])
                if isinstance(node, ast.Import)
                else ast.ImportFrom(node.module, [alias], 0)
            )
            return ast.unparse(one)
        up = ".." if self.file.parent == UTILS else "."
        package, _, stem = f"{up}{Part(origin[0], self.folder).module}".rpartition(".")
        kept = f" as {alias.asname}" if alias.asname else ""
        if origin[1] == ALL:
            return f"from {package or '.'} import {stem}{kept}"
        return f"from {package}.{stem} import {alias.name}{kept}"

    def _source(self, node: Definition) -> str:
        """As it was written, with its decorators and the comment above it."""
        decorators = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(one.lineno for one in decorators)]) - 1
        while first > 0 and self.lines[first - 1].startswith("#"):
            first -= 1
        return "\n".join(self.lines[first : node.end_lineno])


def extract(file: Path, name: str) -> dict[str, str]:
    """The modules of a package with class `name` of `file`, by path in it."""
    parts = {file: Part(file, file.parent)}
    waiting = [(file, {name})]
    while waiting:
        path, names = waiting.pop()
        part = parts.setdefault(path, Part(path, file.parent))
        if part.need(names):
            waiting += part.borrowed().items()
    texts = {f"{part.module.replace('.', '/')}.py": part.text() for part in parts.values()}
    packages = {"__init__.py", *(str(Path(path).parent / "__init__.py") for path in texts)}
    return dict.fromkeys(sorted(packages), "") | texts


def _defined(node: Definition) -> list[str]:
    """The names that a statement of a module defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    names = [one for target in targets if target is not None for one in ast.walk(target)]
    return [one.id for one in names if isinstance(one, ast.Name)]
