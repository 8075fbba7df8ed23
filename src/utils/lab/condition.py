"""Conditions on runs, as they are typed: `learning_rate>0.001`, `status=failed`, `note~dropout`, `dirty`."""

import math
import re
from dataclasses import dataclass
from difflib import get_close_matches

from src.utils.errors import UserError
from src.utils.store.entry import Entry, Value
from src.utils.store.ledger import Ledger

FORM = re.compile(r"\s*([\w./\-]+)\s*(?:(<=|>=|!=|==|=|<|>|~)\s*(.*?)\s*)?", re.DOTALL)
NAMED = {  # for what has a longer name in MLflow
    "note": "mlflow.note.content",
    "dirty": "git.dirty",
    "commit": "mlflow.source.git.commit",
    "study": "optuna.study",
    "trial": "optuna.trial",
}
ATTRIBUTES = ("id", "name", "status", "experiment")


@dataclass(frozen=True)
class Condition:
    """A name alone asks whether it is there and not false."""

    name: str
    operator: str
    value: str

    @classmethod
    def parse(cls, text: str) -> "Condition":
        match = FORM.fullmatch(text)
        if match is None or (match[2] and not match[3]):
            raise UserError(
                f"{text!r} is no condition: write one like learning_rate>0.001, status=failed, "
                "note~dropout, or a tag alone"
            )
        return cls(match[1], match[2] or "", match[3] or "")

    def among(self, ledger: Ledger, entries: list[Entry]) -> list[Entry]:
        """The runs of which it is true."""
        values = column(ledger, entries, self.name)
        return [one for one in entries if one.id in values and self.holds(values[one.id])]

    def holds(self, value: Value) -> bool:
        """Numbers are compared as numbers; words by =, != and ~ (contains), in any case."""
        if not self.operator:
            return str(value).lower() not in ("", "false", "none", "0")
        if self.operator == "~":
            return self.value.lower() in str(value).lower()
        left, right = number(value), number(self.value)
        if left is None or right is None:
            return self._compares_words(str(value).lower(), self.value.lower())
        return {
            "<": left < right,
            "<=": left <= right,
            ">": left > right,
            ">=": left >= right,
            "!=": left != right,
        }.get(self.operator, left == right)

    def _compares_words(self, left: str, right: str) -> bool:
        return (left != right) if self.operator == "!=" else self.operator in "==" and left == right


def column(ledger: Ledger, entries: list[Entry], name: str) -> dict[str, Value]:
    """What is called `name`, whether metric, param, tag or attribute, by run id."""
    if name == "status":
        pruned = ledger.column("tags", "optuna.state")
        return {one.id: _state(one, pruned.get(one.id)) for one in entries}
    if name in ATTRIBUTES:
        return {one.id: str(getattr(one, name)) for one in entries}
    for kind, key in (
        ("metrics", name),
        ("params", name),
        ("tags", f"tag.{name}"),
        ("tags", NAMED.get(name, name)),
    ):
        found = ledger.column(kind, key)
        if found:
            return found
    if name in NAMED:
        return {}
    raise UserError(f"no run has anything called {name!r}{_near(ledger, name)}")


def _state(one: Entry, of_trial: Value | None) -> str:
    """As tables show it: a trial that was pruned has finished in MLflow's eyes."""
    return "pruned" if of_trial == "pruned" else one.status.lower()


def number(value: Value) -> float | None:
    """As a number, if it is one."""
    try:
        found = float(value)
    except ValueError:
        return None
    return None if math.isnan(found) else found


def _near(ledger: Ledger, name: str) -> str:
    tags = {key.removeprefix("tag.") for key in ledger.keys("tags")}
    known = {*ledger.keys("metrics"), *ledger.keys("params"), *tags, *NAMED, *ATTRIBUTES}
    near = get_close_matches(name, sorted(known), n=3)
    return f": did you mean {' or '.join(near)}?" if near else ""
