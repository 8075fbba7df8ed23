"""The filters of `lab runs --where`, and what they and `--sort` name: metrics, params, tags, attributes."""

import ast
import math
import re
from dataclasses import dataclass
from difflib import get_close_matches

from src.utils.errors import UserError
from src.utils.store.reader import RunReader
from src.utils.store.record import FOLD, GROUP, SEED, RunRecord, Value
from src.utils.store.reference import find_record

FILTER = re.compile(r"\s*([\w./\-]+)\s*(?:(<=|>=|!=|==|=|<|>|~)\s*(.*?)\s*)?", re.DOTALL)
ATTRIBUTES = ("id", "name", "status", "experiment")  # of a run, as --where and --sort name them
TAGS = {  # short names of tags
    "note": "mlflow.note.content",
    "dirty": "git.dirty",
    "commit": "mlflow.source.git.commit",
    "study": "optuna.study",
    "trial": "optuna.trial",
    "group": GROUP,
}
# Text of a param that is a number, and other texts that Python wrote
NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?(e[+-]?\d+)?")
CONSTANTS, BRACKETS = ("True", "False", "None"), ("[", "{", "(")
OF_MEMBERS = ("group", GROUP, "fold", FOLD, SEED)


@dataclass(frozen=True)
class Filter:
    """A condition of --where: `learning_rate>0.001`, `status=failed`, `note~dropout`.

    A name alone, such as `dirty`, selects the runs that have it with a value other than false.
    """

    name: str
    operator: str
    value: str

    @classmethod
    def parse(cls, text: str) -> "Filter":
        """Parse a condition as it is typed.

        Raises:
            UserError: the text is not a filter.
        """
        match = FILTER.fullmatch(text)
        if match is None or (match[2] and not match[3]):
            raise UserError(
                f"{text!r} is not a filter: write one like learning_rate>0.001, status=failed, "
                "note~dropout, or a tag alone"
            )
        return cls(match[1], match[2] or "", match[3] or "")

    @property
    def selects_members(self) -> bool:
        """Whether it names what only members of groups have."""
        return self.name in OF_MEMBERS

    def apply(self, reader: RunReader, records: list[RunRecord]) -> list[RunRecord]:
        """Return the runs that match.

        Raises:
            UserError: no run has a metric, param, tag or attribute of this name, or there is no such group.
        """
        if self.name == "group" and self.operator in ("=", "=="):
            group = find_record(self.value, reader=reader).id
            return Filter(GROUP, "=", group).apply(reader, records)
        values = read_column(reader, records, self.name)
        return [run for run in records if run.id in values and self.matches(values[run.id])]

    def matches(self, value: Value) -> bool:
        """Compare numbers as numbers, and text by =, != and ~ (contains), ignoring case."""
        if not self.operator:
            return str(value).lower() not in ("", "false", "none", "0")
        if self.operator == "~":
            return self.value.lower() in str(value).lower()
        left, right = to_number(value), to_number(self.value)
        if left is None or right is None:
            return self._matches_text(_plain(str(value)), _plain(self.value))
        return {
            "<": left < right,
            "<=": left <= right,
            ">": left > right,
            ">=": left >= right,
            "!=": left != right,
        }.get(self.operator, left == right)

    def _matches_text(self, left: str, right: str) -> bool:
        if self.operator == "!=":
            return left != right
        return self.operator in ("=", "==") and left == right


def _plain(text: str) -> str:
    """In lower case; as params are written, `null` is `none`, and a list has other spaces and quotes."""
    text = text.lower()
    if text == "null":
        return "none"
    return re.sub(r"[\s'\"]", "", text) if text[:1] in BRACKETS else text


def read_column(reader: RunReader, records: list[RunRecord], name: str) -> dict[str, Value]:
    """By run id, the metric, param, tag or attribute of this name.

    Raises:
        UserError: no run has anything of this name.
    """
    if name == "status":
        trial_states = reader.column("tags", "optuna.state")
        return {run.id: _status(run, trial_states.get(run.id)) for run in records}
    if name in ATTRIBUTES:
        return {run.id: str(getattr(run, name)) for run in records}
    for kind, key in (
        ("metrics", name),
        ("params", name),
        ("tags", f"tag.{name}"),
        ("tags", TAGS.get(name, name)),
    ):
        values = reader.column(kind, key)
        if values:
            return values
    if name in TAGS:
        return {}
    raise UserError(f"no run has anything called {name!r}{_suggestion(reader, name)}")


def _status(record: RunRecord, trial_state: Value | None) -> str:
    """As tables show it: to MLflow, a pruned trial has finished."""
    return "pruned" if trial_state == "pruned" else record.status.lower()


def _suggestion(reader: RunReader, name: str) -> str:
    tags = {key.removeprefix("tag.") for key in reader.keys("tags")}
    known = {*reader.keys("metrics"), *reader.keys("params"), *tags, *TAGS, *ATTRIBUTES}
    near = get_close_matches(name, sorted(known), n=3)
    return f": did you mean {' or '.join(near)}?" if near else ""


def to_number(value: Value | None) -> float | None:
    """The value as a number; None for text and NaN."""
    try:
        number = math.nan if value is None else float(value)
    except ValueError:
        return None
    return None if math.isnan(number) else number


def to_value(text: str) -> object:
    """What the text of a param stands for: a number, True, False, None, a list or a dict; else the text."""
    is_written = NUMBER.fullmatch(text) or text in CONSTANTS or text[:1] in BRACKETS
    try:
        return ast.literal_eval(text) if is_written else text
    except (ValueError, SyntaxError):
        return text
