"""Which way a study goes: it follows from `mode`, the way in which the monitored metric is good."""

from typing import Any, Literal

from src.utils.errors import UserError

from omegaconf import DictConfig

Mode = Literal["min", "max"]
DIRECTIONS = {"min": "minimize", "max": "maximize"}
MODES = {direction: mode for mode, direction in DIRECTIONS.items()}


def directions(config: DictConfig) -> list[str]:
    """The direction of each objective.

    Raises:
        UserError: a direction is none, or contradicts `mode`.
    """
    mode, asked = config.get("mode"), config.hydra.sweeper.direction
    if asked is None:
        return [DIRECTIONS.get(mode, "minimize")]
    names = _names(asked)
    wrong = [name for name in names if name not in MODES]
    if wrong or not names:
        said = ", ".join(wrong) or "[]"
        raise UserError(f"hydra.sweeper.direction={said} is refused: it is minimize or maximize")
    if len(names) == 1 and mode in DIRECTIONS and names[0] != DIRECTIONS[mode]:
        raise UserError(f"hydra.sweeper.direction={names[0]} {contradicts(mode, names[0])}")
    return names


def contradicts(mode: Mode, direction: str) -> str:
    """What is wrong, and what to do."""
    return (
        f"contradicts mode={mode}, the way in which the monitored metric is good: set "
        f"mode={MODES[direction]} with a monitor that fits, or hydra.sweeper.direction={DIRECTIONS[mode]}"
    )


def _names(asked: Any) -> list[str]:
    several = [asked] if isinstance(asked, str) or not hasattr(asked, "__iter__") else asked
    return [getattr(one, "name", str(one)) for one in several]
