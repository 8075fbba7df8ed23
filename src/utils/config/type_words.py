"""The type of a setting in words, as editors and the reference show it: `integer from 0 to 9`."""

from collections.abc import Iterator, Mapping
from typing import Any

from src.utils.settings import format_override_value

WORDS = {"string": "text", "boolean": "true or false", "array": "list", "object": "mapping"}


def type_in_words(node: Mapping[str, Any]) -> str:
    """What a schema allows, for people: `integer from 0 to 9`, `number above 0 or null`, `min or max`."""
    if {} in node.get("anyOf", ()):  # whatever else: these are examples
        examples = node["anyOf"][0]["enum"]
        return f"{', '.join(map(format_override_value, examples))} …"
    *first, last = _choices(node)
    return f"{', '.join(first)} or {last}" if first else last


def _choices(node: Mapping[str, Any]) -> Iterator[str]:
    kind = "object" if "$ref" in node else node.get("type", "any value")
    if "enum" in node or "const" in node:
        yield from map(format_override_value, node.get("enum", [node.get("const")]))
    elif "anyOf" in node:
        for choice in node["anyOf"]:
            yield from _choices(choice)
    elif isinstance(kind, list):
        for one in kind:
            yield from _choices({**node, "type": one})
    elif kind == "array" and node.get("items"):
        yield f"list of {type_in_words(node['items'])}"
    else:
        yield " ".join([WORDS.get(kind, kind), *_range(kind, node)]).rstrip()


def _range(name: str, node: Mapping[str, Any]) -> Iterator[str]:
    if name not in ("integer", "number"):
        return
    least, above = node.get("minimum"), node.get("exclusiveMinimum")
    most, below = node.get("maximum"), node.get("exclusiveMaximum")
    if name == "integer":  # whose bounds belong to its range
        least = above + 1 if above is not None else least
        most = below - 1 if below is not None else most
        above = below = None
    if least is not None and most is not None:
        yield f"from {least} to {most}"
        return
    bounds = {"of at least": least, "above": above, "of at most": most, "below": below}
    text = " and ".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)
    yield text.replace(" and of", " and")
