"""The datasets and features that an experiment reads, as its settings name them."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from src.utils.errors import UserError
from src.utils.layout import DATA, ROOT, Experiment
from src.utils.settings import Settings, as_typed


def sources_of(settings: Settings) -> list[Experiment]:
    """What the settings `dataset` and `feature` name: one each, or a list.

    Raises:
        UserError: there is none of that name; says which there are.
    """
    named = [(stage, name) for stage in DATA for name in _names(getattr(settings, stage, None))]
    return [_known(stage, name) for stage, name in dict.fromkeys(named)]


def _names(value: Any) -> list[str]:
    """`feature01`, `[feature01, feature02]`, or nothing."""
    if value is None or isinstance(value, str):
        return [] if value is None else [value]
    return [str(name) for name in value] if isinstance(value, Iterable) else [str(value)]


def _known(stage: str, name: str) -> Experiment:
    """Its code is there, or at least its data are."""
    code = {file.parent.name for file in (ROOT / "src" / stage).glob("*/*.py")}
    data = {file.parent.name for file in DATA[stage].glob("*/manifest.json")}
    if name in code | data:
        return Experiment(stage, name)
    near = get_close_matches(name, sorted(code | data), n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    there = ", ".join(sorted(code | data)) or "none yet"
    raise UserError(f"{stage}={as_typed(name)} is refused: there are {there}{hint}")
