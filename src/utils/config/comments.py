"""The comments beside settings, in YAML files and in Python classes: they are what describes a setting.

hidden: 256     # units of each dense layer;
                # any number of lines like this one

# Or above it, in lines of their own.
hidden: PositiveInt
"""

import ast
import re
from collections.abc import Iterator, Sequence

import yaml

NOT_FOR_READERS = re.compile(r"# (type: ignore|noqa).*")  # of a type checker or linter


def yaml_comments(text: str) -> dict[str, str]:
    """The comment of each setting of a YAML file, by its dotted name; of those that have one."""
    lines = text.splitlines()
    root = yaml.compose(text, yaml.SafeLoader)
    found = {}
    for name, key, value in _settings(root):
        if lines[key.start_mark.line][: key.start_mark.column].strip():
            continue  # in a mapping of one line
        is_block = isinstance(value, yaml.CollectionNode) and not value.flow_style
        end = key.end_mark if is_block else value.end_mark
        rest = lines[end.line][end.column :] if end.line < len(lines) else ""
        found[name] = _comment(lines, key.start_mark.line, end.line, rest.removeprefix(":"))
    return {name: comment for name, comment in found.items() if comment}


def class_comments(source: str, name: str) -> dict[str, str]:
    """The comment of each attribute that a class of a Python file declares or gets in `__init__`."""
    lines = source.splitlines()
    classes = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    found: dict[str, str] = {}
    for target, node in _assignments(next(node for node in classes if node.name == name)):
        first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
        rest = lines[last].encode()[node.end_col_offset :].decode()
        comment = _comment(lines, first, last, NOT_FOR_READERS.sub("", rest))
        found |= {target: comment} if comment else {}
    return found


def _assignments(node: ast.AST) -> Iterator[tuple[str, ast.stmt]]:
    """The attributes that are assigned or declared in the body of a class or in its `__init__`."""
    for child in getattr(node, "body", ()):
        if isinstance(child, ast.FunctionDef) and child.name == "__init__":
            yield from _assignments(child)
        if isinstance(child, ast.Assign | ast.AnnAssign):
            target = child.targets[0] if isinstance(child, ast.Assign) else child.target
            yield ast.unparse(target).removeprefix("self."), child


def _settings(
    node: yaml.Node | None, prefix: str = ""
) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
    """Name, key and value of all settings, in the file's order."""
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        yield f"{prefix}{key.value}", key, value
        yield from _settings(value, f"{prefix}{key.value}.")


def _comment(lines: Sequence[str], first: int, last: int, rest: str) -> str:
    """The comment of what stands in the lines `first` to `last`, after which comes `rest`."""
    if rest.lstrip().startswith("#"):
        column = lines[last].rindex(rest.strip())
        found = [rest, *_lines_like(f"{' ' * column}#", lines[last + 1 :])]
    else:
        indent = lines[first][: len(lines[first]) - len(lines[first].lstrip())]
        found = [*_lines_like(f"{indent}#", lines[:first][::-1])][::-1]
    return " ".join(line.strip().removeprefix("#").strip() for line in found)


def _lines_like(start: str, lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        if not line.startswith(start):
            return
        yield line
