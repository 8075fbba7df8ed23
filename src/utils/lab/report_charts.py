"""Charts of `lab report`: drawn by matplotlib, as small SVG that stands in a page.

Text stays text, in the fonts of the page. Colours are names of the page's own (`var(--c0)`), which has others
in the dark.
"""

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 360, 216  # points: pixels, where the page has room for them
FONT = 11
GREATEST = 1e30  # number on an axis
LONGEST_NAME = 24  # characters on an axis
ROW = 26  # points: a group in the chart of members
# Colours that stand for those of the page, by its names
INK, MUTED, RULE, OTHER = "#000001", "#000002", "#000003", "#000004"
NAMES = {INK: "ink", MUTED: "muted", RULE: "rule", OTHER: "other"}
NUMBERED = re.compile(r"#0001(\d\d)")
FEW_CHOICES = 6  # different numbers that have a place of their own on an axis
LOG_RATIO = 50  # of the greatest to the least value, from which on an axis is logarithmic
# What is dropped from matplotlib's SVG, and what is shortened
DROPPED = re.compile(
    r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->| xmlns(:\w+)?=\"[^\"]*\""
    r"| (width|height)=\"[\d.]+pt\"|(?<=<g) id=\"(?!run)[^\"]*\"|font-family:[^;\"]*;? ?"
    r"| transform=\"rotate\(-?0 [^\"]*\"",
    re.DOTALL,
)
GEOMETRY = re.compile(r" (?:d|x|y|transform)=\"[^\"]*\"")
DECIMALS = re.compile(r"-?\d+\.\d+")


@dataclass(frozen=True)
class Chart:
    """A chart of the page."""

    title: str
    svg: str
    legend: str = ""


@dataclass(frozen=True)
class Line:
    """A curve in a chart."""

    run: int | None  # the number of its run in the table
    colour: int | None
    points: Sequence[tuple[float, float]]
    dashed: bool = False
    band: Sequence[tuple[float, float, float]] = ()  # x, and the ends of the band there


@dataclass(frozen=True)
class Point:
    """A run in a chart of a study, or a member in a chart of groups."""

    x: float | str
    y: float
    colour: int | None
    run: int | None
    pruned: bool = False


def is_finite(value: float) -> bool:
    """Whether a value can be drawn. MLflow stores infinity as 1.8e308."""
    return abs(value) < GREATEST


def line_chart(name: str, x: str, lines: Sequence[Line]) -> str:
    """Curves by step or epoch; those without a colour of their own lie below the others."""
    figure, axes = _figure(counts=True)
    for line in sorted(lines, key=lambda one: one.colour is None, reverse=True):
        colour = _colour(line.colour)
        if line.band:
            xs, low, high = zip(*line.band, strict=True)
            axes.fill_between(xs, low, high, color=colour, alpha=0.16, linewidth=0)
        width = 0.9 if line.colour is None else 1.2 if line.dashed else 1.7
        xs, ys = zip(*line.points, strict=True)
        style = (0, (3, 2)) if line.dashed else "-"
        (drawn,) = axes.plot(xs, ys, color=colour, linewidth=width, linestyle=style)
        drawn.set_gid(f"run{line.run}")
    _scale(axes, "y", [y for line in lines for _, y in line.points])
    axes.set_xlabel(x, color=MUTED)
    return _svg(figure, name)


def history_chart(name: str, points: Sequence[Point], maximize: bool) -> str:
    """The objective by trial, and the best until then."""
    figure, axes = _figure(counts=True)
    best: list[float] = []
    complete = [point for point in points if not point.pruned]
    for point in complete:
        pair = (*best[-1:], point.y)
        best.append(max(pair) if maximize else min(pair))
    axes.step([point.x for point in complete], best, where="post", color=MUTED, linewidth=1)
    _scatter(axes, points)
    _scale(axes, "y", [point.y for point in points])
    axes.set_xlabel("trial", color=MUTED)
    return _svg(figure, name)


def slice_chart(name: str, points: Sequence[Point]) -> str:
    """The objective by one parameter."""
    figure, axes = _figure()
    is_text = any(isinstance(point.x, str) for point in points)
    choices = sorted({str(p.x) if is_text else p.x for p in points})
    if is_text or len(choices) <= FEW_CHOICES:
        places = {str(choice): place for place, choice in enumerate(choices)}
        points = [replace(point, x=places[str(point.x)]) for point in points]
        axes.set_xticks(list(places.values()), list(map(_tick, choices)))
        axes.margins(x=0.15)
    else:
        _scale(axes, "x", [float(point.x) for point in points])
    _scatter(axes, points)
    _scale(axes, "y", [point.y for point in points])
    return _svg(figure, name)


def bar_chart(name: str, values: Mapping[str, float]) -> str:
    """A bar for each name, the longest at the top."""
    figure, axes = _figure(ROW * len(values) + 40)
    ordered = sorted(values.items(), key=lambda item: item[1])
    labels, lengths = zip(*ordered, strict=True)
    bars = axes.barh(range(len(labels)), lengths, height=0.5, color=OTHER)
    axes.bar_label(bars, fmt="%.2f", padding=4, color=MUTED)
    axes.set_yticks(range(len(labels)), list(map(_tick, labels)))
    axes.set_xlim(0, max(lengths) * 1.18 or 1)
    axes.grid(False)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    return _svg(figure, name)


def member_chart(name: str, groups: Sequence[tuple[str, Sequence[Point]]]) -> str:
    """The values of the members of each group, a line for each group; the tick is the mean."""
    figure, axes = _figure(ROW * len(groups) + 44)
    rows = groups[::-1]
    for row, (_, points) in enumerate(rows):
        colour = _colour(points[0].colour)
        values = [point.y for point in points]
        mean = sum(values) / len(values)
        axes.plot([min(values), max(values)], [row, row], color=colour, alpha=0.35, linewidth=1)
        axes.plot(values, [row] * len(values), "o", color=colour, markersize=5, alpha=0.7)
        axes.plot([mean, mean], [row - 0.32, row + 0.32], color=colour, linewidth=2.2)
    axes.set_yticks(range(len(rows)), [_tick(label) for label, _ in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=RULE, linewidth=0.6)
    return _svg(figure, name)


def _figure(height: float = HEIGHT, counts: bool = False) -> tuple["Figure", "Axes"]:
    """An empty chart; `counts`: the numbers below it are whole ones."""
    from matplotlib import rc_context  # late: it is slow to import
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with rc_context({"font.size": FONT}):
        figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
        axes = figure.subplots()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.tick_params(color=RULE, labelcolor=MUTED, length=0, pad=5)
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=counts))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    return figure, axes


def _scale(axes: "Axes", axis: str, values: Sequence[float]) -> None:
    """A logarithmic axis where the values differ in their order of magnitude."""
    least, greatest = min(values, default=0.0), max(values, default=0.0)
    if least < 1 / GREATEST or greatest < LOG_RATIO * least:
        return
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set(**{f"{axis}scale": "log"})
    scaled = axes.xaxis if axis == "x" else axes.yaxis
    scaled.set_major_locator(LogLocator(numticks=6))
    scaled.set_minor_locator(NullLocator())
    scaled.set_major_formatter(lambda value, _: f"{value:g}")


def _tick(name: float | str) -> str:
    """The text at a tick. Between two $ matplotlib would expect a formula."""
    if not isinstance(name, str):
        return f"{name:g}"
    short = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
    return short.replace("$", r"\$")


def _scatter(axes: "Axes", points: Sequence[Point]) -> None:
    for point in sorted(points, key=lambda one: one.colour is None, reverse=True):
        marker = {"marker": "x", "s": 22, "linewidth": 1.2} if point.pruned else {"s": 30}
        drawn = axes.scatter([float(point.x)], [point.y], color=_colour(point.colour), **marker)
        drawn.set_gid(f"run{point.run}")


def _colour(number: int | None) -> str:
    return OTHER if number is None else f"#0001{number:02}"


def _svg(figure: "Figure", name: str) -> str:
    """The figure as an element of HTML. Its ids begin with the name, since a page has many charts."""
    from matplotlib import rc_context

    options: Any = {"svg.fonttype": "none", "svg.hashsalt": name}
    with rc_context(options), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # matplotlib measures text by a font that lacks Japanese
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True)
    text = buffer.getvalue()
    text = DROPPED.sub("", text[text.index("<svg") :])
    text = GEOMETRY.sub(lambda match: DECIMALS.sub(_rounded, match[0]), text)
    for colour, variable in NAMES.items():
        text = text.replace(colour, f"var(--{variable})")
    text = NUMBERED.sub(lambda match: f"var(--c{int(match[1])})", text)
    text = re.sub(r'<g id="(run\d+)"', r'<g class="line \1"', text)
    text = re.sub(r"\s*\n\s*", "\n", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(name)}"', 1)


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.1f}".removesuffix(".0")
