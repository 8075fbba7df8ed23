"""`lab diff`: what differs between two runs, in params, data, code, packages, machine and metrics.

Between two groups it ends with the pairs of their members and a verdict (`src/utils/lab/verdict.py`).
"""

import hashlib
from collections.abc import Iterator, Mapping
from difflib import unified_diff
from pathlib import Path
from typing import Any

from src.utils.lab.filter import to_value
from src.utils.lab.runs import without_derived
from src.utils.lab.show import read_packages
from src.utils.runs.provenance import read_metadata
from src.utils.store.objective import display_order, is_resource, without_spreads
from src.utils.store.reader import RunReader, dataset_digests, find_artifact
from src.utils.store.record import RunRecord
from src.utils.terminal import format_value

from rich import box, get_console
from rich.markup import escape
from rich.table import Table

MOST_LINES = 80  # of a source diff, without --full
DIGESTS, DIGEST_LENGTH = (
    ("data", "commit"),
    12,
)  # the sections of digests, and what is printed of one
LONGEST_NAME = 30  # characters of a param or a file in the table
COLOURS = {"+": "green", "-": "red", "@": "cyan"}
Pair = tuple[str, str]


def print_diff(reader: RunReader, left: RunRecord, right: RunRecord, full: bool = False) -> None:
    """Print a table of the differences, the source diff, and a line that names what is the same.

    Args:
        full: print a long diff whole, and the diff of two experiments, which have little in common.
    """
    console = get_console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    for run in (left, right):
        table.add_column(f"{run.name}\n{run.short}", overflow="fold")
    table.add_column("change", justify="right", no_wrap=True)
    same = []
    for section, pairs in compare_runs(reader, left, right).items():
        if pairs:
            table.add_row(f"[bold]{section}[/]")
        else:
            same.append(section)
        for name, (old, new) in pairs.items():
            values = _short_values(section, old, new)
            cells = (f"  {_short_name(name)}", *values, _change(old, new))
            table.add_row(*map(escape, cells))
    if table.row_count:
        console.print(table, highlight=False)
    if _compares_source(left, right, full):
        lines = list(source_diff(left, right))
        _print_source_diff(lines, full)
        same += [] if lines else ["source"]
    console.print(f"the same: {', '.join(same)}", style="dim", highlight=False)
    if left.is_group or right.is_group:
        from src.utils.lab.verdict import print_verdict  # late: it imports scipy

        print_verdict(reader, left, right)


def _compares_source(left: RunRecord, right: RunRecord, full: bool) -> bool:
    return left.experiment == right.experiment or full


def as_dict(
    reader: RunReader, left: RunRecord, right: RunRecord, full: bool = False
) -> dict[str, Any]:
    """The differences as `lab diff --json` prints them."""
    sections = compare_runs(reader, left, right)
    lines = list(source_diff(left, right)) if _compares_source(left, right, full) else None
    found: dict[str, Any] = {
        "runs": [left.id, right.id],
        "differences": {
            section.replace(" ", "_"): {
                name: [_value(section, text) for text in pair] for name, pair in pairs.items()
            }
            for section, pairs in sections.items()
        },
        "source": None if lines is None else "\n".join(lines),
    }
    if left.is_group or right.is_group:
        from src.utils.lab.verdict import verdict_as_dict  # late: it imports scipy

        found["verdict"] = verdict_as_dict(reader, left, right)
    return found


def _value(section: str, text: str) -> object:
    """None where a run has no such value."""
    if not text:
        return None
    if section == "metrics":
        return float(text)
    return to_value(text) if section in ("settings", "machine") else text


def _short_name(name: str) -> str:
    """The end of a path that is too long for the table."""
    while len(name) > LONGEST_NAME and "/" in name[2:]:
        name = f"…/{name.removeprefix('…/').partition('/')[2]}"
    return name


def _short_values(section: str, left: str, right: str) -> Pair:
    """The start of digests; numbers in a few digits, unless only the further digits differ."""
    if section in DIGESTS:
        return left[:DIGEST_LENGTH], right[:DIGEST_LENGTH]
    shorter = format_value(left), format_value(right)
    return shorter if shorter[0] != shorter[1] else (left, right)


def _change(left: str, right: str) -> str:
    try:
        return f"{float(right) - float(left):+.4g}"
    except ValueError:
        return ""


def _print_source_diff(lines: list[str], full: bool) -> None:
    console = get_console()
    for line in lines if full else lines[:MOST_LINES]:
        style = COLOURS.get(line[0:1], "")
        console.print(escape(line), style=style, highlight=False, soft_wrap=True)
    if len(lines) > MOST_LINES and not full:
        console.print(f"… {len(lines) - MOST_LINES} lines more: --full shows them", style="dim")


def compare_runs(
    reader: RunReader, left: RunRecord, right: RunRecord
) -> dict[str, dict[str, Pair]]:
    """By section and name, the pairs of values that differ."""
    return {
        "settings": _differing(_settings(left), _settings(right)),
        "data": _differing(_data(reader, left), _data(reader, right)),
        "commit": _differing(_commit(left), _commit(right)),
        "uncommitted changes": _differing(changed_files(left), changed_files(right)),
        "packages": _differing(read_packages(left), read_packages(right)),
        "machine": _differing(_machine(left), _machine(right)),
        "metrics": _differing(_metrics(left), _metrics(right)),
    }


def _differing(left: Mapping[str, str], right: Mapping[str, str]) -> dict[str, Pair]:
    names = dict.fromkeys([*left, *right])
    return {
        name: (left.get(name, ""), right.get(name, ""))
        for name in names
        if left.get(name) != right.get(name)
    }


def _settings(record: RunRecord) -> dict[str, str]:
    return without_derived(record.settings)


def _data(reader: RunReader, record: RunRecord) -> dict[str, str]:
    return dataset_digests(reader, record.id)


def _commit(record: RunRecord) -> dict[str, str]:
    names = {"commit": "mlflow.source.git.commit", "branch": "mlflow.source.git.branch"}
    return {name: record.tags.get(tag, "") for name, tag in names.items()}


def changed_files(record: RunRecord) -> dict[str, str]:
    """The files of the patch, each with its numbers of lines and a short hash of its changes."""
    patch = find_artifact(record, "provenance/changes.patch")
    files = {}
    for part in patch.read_text(errors="replace").split("diff --git ")[1:] if patch else []:
        lines = part.splitlines()
        added, removed = (sum(line.startswith(sign) for line in lines[1:]) for sign in "+-")
        name = lines[0].rpartition(" b/")[2]
        digest = hashlib.sha256(part.encode()).hexdigest()[:6]
        files[name] = f"+{max(0, added - 1)} -{max(0, removed - 1)} {digest}"
    return files


def _machine(record: RunRecord) -> dict[str, str]:
    hardware: dict[str, Any] = read_metadata(find_artifact(record, "provenance")).get(
        "hardware", {}
    )
    return {name: str(value) for name, value in hardware.items()}


def _metrics(record: RunRecord) -> dict[str, str]:
    names = sorted(
        (name for name in without_spreads({*record.metrics}) if not is_resource(name)),
        key=display_order,
    )
    return {name: repr(record.metrics[name]) for name in names}


def source_diff(left: RunRecord, right: RunRecord) -> Iterator[str]:
    """The lines of a unified diff of the source code that is saved with each run."""
    old, new = (
        _source_files(find_artifact(left, "source")),
        _source_files(find_artifact(right, "source")),
    )
    for name in sorted({*old, *new}):
        yield from unified_diff(
            old.get(name, []),
            new.get(name, []),
            f"{left.short}/{name}",
            f"{right.short}/{name}",
            lineterm="",
        )


def _source_files(folder: Path | None) -> dict[str, list[str]]:
    files = sorted(folder.rglob("*.py")) if folder else []
    return {
        str(file.relative_to(folder)): file.read_text().splitlines() for file in files if folder
    }
