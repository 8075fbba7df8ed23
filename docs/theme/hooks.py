"""What mkdocs does with the pages before they become HTML: mkdocs.yml names this file.

- A Mermaid picture becomes an SVG, so that a browser need not load Mermaid from another server.
- A link that leads out of docs/ is one to the repository (`repo_url` in mkdocs.yml), or else no link.
- A page that is not there is left out of the navigation: a project has no docs/decisions.md.
- Lines of Japanese are joined without a space.
"""

import re
from collections import defaultdict
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

MERMAID = re.compile(r"^```mermaid\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NODE = re.compile(r'^ *(\w+)\["(.*)"\]$', re.MULTILINE)
ARROW = re.compile(r"^ *(\w+) --> (\w+)$", re.MULTILINE)
JAPANESE_LINE_END = re.compile(r"(?<=[、。])\n *(?![-|#\s]|\d+\. |```)")  # inside a paragraph
OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+([^)]+)\)")

ROW, LINE, MARGIN = 84, 18, 28  # pixels: between rows, between lines of text, between boxes
LETTER, WIDE_LETTER, PADDING = 7.6, 13, 16  # pixels; Japanese has wide ones
LONGEST_LINE = 30  # letters
Arrows = list[tuple[str, str]]


def on_config(config: Any) -> None:
    """Called by mkdocs when it has read mkdocs.yml."""
    config.nav = existing(config.nav, Path(config.docs_dir))


def existing(entries: list[Any], folder: Path) -> list[Any]:
    """The entries of the navigation, pages and sections, less the pages that are not there."""
    found: list[Any] = []
    for entry in entries:
        if isinstance(entry, dict):
            sections = {name: existing(pages, folder) for name, pages in entry.items()}
            found += [sections] if any(sections.values()) else []
        elif (folder / entry).exists():
            found.append(entry)
    return found


def on_page_markdown(markdown: str, config: Any, **_: Any) -> str:
    """Called by mkdocs for each page."""
    address = (config.get("repo_url") or "").rstrip("/")
    link = rf"[\1]({address}/blob/main/\2)" if address else r"\1"
    drawn = MERMAID.sub(lambda match: draw(match[1]), markdown)
    return JAPANESE_LINE_END.sub("", OUTSIDE.sub(link, drawn))


def draw(text: str) -> str:
    """A Mermaid flowchart (`flowchart TD`, boxes and arrows) as an SVG on one line."""
    labels = {name: wrap(label) for name, label in NODE.findall(text)}
    arrows: Arrows = ARROW.findall(text)
    rows, pieces = in_rows(list(labels), arrows)
    sizes = {one: width(labels[one]) if one in labels else 0 for row in rows for one in row}
    x = place(rows, pieces, sizes)
    y = {one: (number + 0.5) * ROW for number, row in enumerate(rows) for one in row}
    right = max(x[one] + sizes[one] / 2 for one in x) + 2
    parts = [curve(piece, x, y, labels) for piece in pieces]
    parts += [box(label, x[one], y[one]) for one, label in labels.items()]
    size = f'width="{right:.0f}" viewBox="0 0 {right:.0f} {ROW * len(rows)}"'
    head = f'<svg class="flowchart" {size} role="img">'
    return head + "".join(parts) + "</svg>"


def wrap(label: str) -> list[str]:
    """The lines of a label, broken after a comma."""
    lines = [""]
    for part in re.split(r"(?<=,) ", label):
        if lines[-1] and len(lines[-1]) + len(part) > LONGEST_LINE:
            lines.append("")
        lines[-1] = f"{lines[-1]} {part}".strip()
    return lines


def in_rows(names: list[str], arrows: Arrows) -> tuple[list[list[str]], Arrows]:
    """Boxes in rows, each as low as what is below it allows; and the arrows, cut into pieces between rows."""
    below = defaultdict(list)
    for source, target in arrows:
        below[source].append(target)

    def height(name: str) -> int:
        return max((1 + height(one) for one in below[name]), default=0)

    heights = {name: height(name) for name in names}
    rows: list[list[str]] = [[] for _ in range(max(heights.values()) + 1)]
    for name in names:
        rows[-1 - heights[name]].append(name)
    pieces: Arrows = []
    for source, target in arrows:
        corners = [
            f"{source} {target} {at}" for at in range(heights[source] - 1, heights[target], -1)
        ]
        for corner in corners:
            rows[-1 - int(corner.split()[-1])].append(corner)
        path = [source, *corners, target]
        pieces += pairwise(path)
    return rows, pieces


def place(rows: list[list[str]], pieces: Arrows, sizes: dict[str, float]) -> dict[str, float]:
    """The centre of each box and corner, near to what it is joined with; reorders the rows."""
    beside = defaultdict(list)
    for one, other in pieces:
        beside[one].append(other)
        beside[other].append(one)
    x = {one: 200.0 * number for row in rows for number, one in enumerate(row)}
    for _ in range(40):
        for row in [*rows, *reversed(rows)]:
            wanted = {one: sum(x[o] for o in beside[one]) / max(1, len(beside[one])) for one in row}
            row.sort(key=lambda one: wanted[one])
            x |= spread(row, wanted, sizes)
    left = min(x[one] - sizes[one] / 2 for one in x) - 2
    return {one: at - left for one, at in x.items()}


def spread(row: list[str], wanted: dict[str, float], sizes: dict[str, float]) -> dict[str, float]:
    """Places in a row as near as possible to the wanted ones, without overlap."""
    offsets = [0.0]
    for one, other in pairwise(row):
        offsets.append(offsets[-1] + (sizes[one] + sizes[other]) / 2 + MARGIN)
    groups: list[list[float]] = []  # of neighbours that touch: the places wanted, less the offsets
    for one, offset in zip(row, offsets, strict=True):
        groups.append([wanted[one] - offset])
        while len(groups) > 1 and mean(groups[-2]) > mean(groups[-1]):
            last = groups.pop()
            groups[-1] += last
    starts = [mean(group) for group in groups for _ in group]
    return {one: a + b for one, a, b in zip(row, starts, offsets, strict=True)}


def mean(values: list[float]) -> float:
    """The mean."""
    return sum(values) / len(values)


def width(lines: list[str]) -> float:
    """Of a box, in pixels."""
    widths = [[LETTER if letter.isascii() else WIDE_LETTER for letter in line] for line in lines]
    return max(map(sum, widths)) + PADDING


def curve(
    piece: tuple[str, str], x: dict[str, float], y: dict[str, float], labels: dict[str, Any]
) -> str:
    """One piece of an arrow; the last has the head."""
    source, target = piece
    top = y[source] + (len(labels[source]) * LINE / 2 + 7 if source in labels else 0)
    end = y[target] - (len(labels[target]) * LINE / 2 + 9 if target in labels else 0)
    middle = (top + end) / 2
    path = f"M{x[source]:.0f} {top:.0f}C{x[source]:.0f} {middle:.0f} {x[target]:.0f} {middle:.0f}"
    path += f" {x[target]:.0f} {end:.0f}"
    head = f'<path class="head" d="M{x[target] - 4:.0f} {end - 4:.0f}l4 6l4 -6z"/>'
    return f'<path d="{path}"/>' + (head if target in labels else "")


def box(lines: list[str], x: float, y: float) -> str:
    """A box with its text."""
    high, wide = len(lines) * LINE + 14, width(lines)
    left, top = x - wide / 2, y - high / 2
    shape = f'<rect x="{left:.0f}" y="{top:.0f}" width="{wide:.0f}" height="{high}" rx="5"/>'
    texts = [
        f'<text x="{x:.0f}" y="{top + 21 + LINE * number:.0f}">{escape(line)}</text>'
        for number, line in enumerate(lines)
    ]
    return shape + "".join(texts)
