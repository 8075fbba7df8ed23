"""What two runs differ in: settings, code, data, environment and metrics, as `lab diff` prints it."""

import hashlib
from collections.abc import Iterator, Mapping
from difflib import unified_diff
from pathlib import Path
from typing import Any

from src.utils.lab.runs import NOT_CHANGES, without_echoes
from src.utils.lab.show import read_packages
from src.utils.runs.provenance import read_metadata
from src.utils.store.objective import RESOURCE_METRICS, display_order
from src.utils.store.reader import RunReader, RunRecord, dataset_digests, find_artifact
from src.utils.terminal import format_value

from rich import box, get_console
from rich.markup import escape
from rich.table import Table

MOST_LINES = 80  # of a source diff, unless all are asked for
LONGEST_NAME = 30  # of a setting or a file, as a table shows it
COLOURS = {"+": "green", "-": "red", "@": "cyan"}
Pair = tuple[str, str]


def print_diff(reader: RunReader, one: RunRecord, other: RunRecord, full: bool = False) -> None:
    """Print what differs; what is the same is named in one line."""
    console = get_console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    for heading in (f"{one.name}\n{one.short}", f"{other.name}\n{other.short}"):
        table.add_column(heading, overflow="fold")
    table.add_column("change", justify="right", no_wrap=True)
    same = []
    for subject, pairs in subjects(reader, one, other).items():
        if pairs:
            table.add_row(f"[bold]{subject}[/]")
        else:
            same.append(subject)
        for name, (left, right) in pairs.items():
            shown = (f"  {_tail(name)}", *_brief(left, right), _change(left, right))
            table.add_row(*map(escape, shown))
    if table.row_count:
        console.print(table, highlight=False)
    code = list(source_changes(one, other))
    _say_code(code, full)
    same += [] if code else ["source"]
    console.print(f"the same: {', '.join(same)}", style="dim", highlight=False)


def subjects(reader: RunReader, one: RunRecord, other: RunRecord) -> dict[str, dict[str, Pair]]:
    """What differs, by subject and name."""
    return {
        "settings": _pairs(_settings(one), _settings(other)),
        "data": _pairs(_data(reader, one), _data(reader, other)),
        "commit": _pairs(_code(one), _code(other)),
        "uncommitted changes": _pairs(_uncommitted(one), _uncommitted(other)),
        "packages": _pairs(read_packages(one), read_packages(other)),
        "machine": _pairs(_machine(one), _machine(other)),
        "metrics": _pairs(_metrics(one), _metrics(other)),
    }


def _pairs(left: Mapping[str, str], right: Mapping[str, str]) -> dict[str, Pair]:
    names = dict.fromkeys([*left, *right])
    return {
        name: (left.get(name, ""), right.get(name, ""))
        for name in names
        if left.get(name) != right.get(name)
    }


def _settings(one: RunRecord) -> dict[str, str]:
    return without_echoes({k: v for k, v in one.params.items() if k not in NOT_CHANGES})


def _data(reader: RunReader, one: RunRecord) -> dict[str, str]:
    return {name: digest[:12] for name, digest in dataset_digests(reader, one.id).items()}


def _code(one: RunRecord) -> dict[str, str]:
    names = {"commit": "mlflow.source.git.commit", "branch": "mlflow.source.git.branch"}
    return {name: one.tags.get(tag, "")[:12] for name, tag in names.items()}


def _uncommitted(one: RunRecord) -> dict[str, str]:
    """The files of its patch, each with how much it changes."""
    patch = find_artifact(one, "provenance/changes.patch")
    found = {}
    for part in patch.read_text(errors="replace").split("diff --git ")[1:] if patch else []:
        lines = part.splitlines()
        added, removed = (sum(line.startswith(sign) for line in lines[1:]) for sign in "+-")
        name = lines[0].rpartition(" b/")[2]
        found[name] = f"+{max(0, added - 1)} -{max(0, removed - 1)} {_hash(part)}"
    return found


def _hash(text: str) -> str:
    """A few letters that change when the text does."""
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def _machine(one: RunRecord) -> dict[str, str]:
    hardware: dict[str, Any] = read_metadata(find_artifact(one, "provenance")).get("hardware", {})
    return {name: str(value) for name, value in hardware.items()}


def _metrics(one: RunRecord) -> dict[str, str]:
    names = sorted(
        (name for name in one.metrics if not name.startswith(RESOURCE_METRICS)), key=display_order
    )
    return {name: repr(one.metrics[name]) for name in names}


def _brief(left: str, right: str) -> Pair:
    """Numbers in a few digits, unless it is the others that differ."""
    shorter = format_value(left), format_value(right)
    return shorter if shorter[0] != shorter[1] else (left, right)


def _tail(name: str) -> str:
    """The end of a path that is too long for a table."""
    while len(name) > LONGEST_NAME and "/" in name[2:]:
        name = f"…/{name.removeprefix('…/').partition('/')[2]}"
    return name


def _change(left: str, right: str) -> str:
    try:
        return f"{float(right) - float(left):+.4g}"
    except ValueError:
        return ""


def source_changes(one: RunRecord, other: RunRecord) -> Iterator[str]:
    """A unified diff of the source that was kept with each run."""
    left, right = _sources(find_artifact(one, "source")), _sources(find_artifact(other, "source"))
    for name in sorted({*left, *right}):
        yield from unified_diff(
            left.get(name, []),
            right.get(name, []),
            f"{one.short}/{name}",
            f"{other.short}/{name}",
            lineterm="",
        )


def _sources(folder: Path | None) -> dict[str, list[str]]:
    files = sorted(folder.rglob("*.py")) if folder else []
    return {
        str(file.relative_to(folder)): file.read_text().splitlines() for file in files if folder
    }


def _say_code(lines: list[str], full: bool) -> None:
    console = get_console()
    for line in lines if full else lines[:MOST_LINES]:
        console.print(
            escape(line), style=COLOURS.get(line[0:1], ""), highlight=False, soft_wrap=True
        )
    if len(lines) > MOST_LINES and not full:
        console.print(f"… {len(lines) - MOST_LINES} lines more: --full shows them", style="dim")
