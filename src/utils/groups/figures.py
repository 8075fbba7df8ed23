"""Figures of a group, made with matplotlib and without a display."""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from src.utils.runs.member import Member
from src.utils.terminal import format_spread

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Curve = dict[int, float]  # value by step


def plot_members(metric: str, values: Mapping[Member, float]) -> Figure:
    """Plot one metric of each member, by fold, or by seed in a group without folds; the band is mean ± sd."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    by_fold = any(member.fold is not None for member in values)
    seeds = sorted({member.seed for member in values})
    for number, seed in enumerate(seeds if by_fold else [None]):
        points = {one: value for one, value in values.items() if seed in (None, one.seed)}
        places = [one.seed if one.fold is None else one.fold for one in points]
        label = f"seed {seed}" if by_fold and len(seeds) > 1 else None
        axes.plot(places, list(points.values()), "o", color=f"C{number % 10}", label=label)
    numbers = list(values.values())
    mean, spread = fmean(numbers), stdev(numbers) if len(numbers) > 1 else 0.0
    axes.axhline(mean, color="black", linewidth=1)
    axes.axhspan(mean - spread, mean + spread, color="black", alpha=0.1, linewidth=0)
    axes.set(xlabel="fold" if by_fold else "seed", ylabel=metric)
    axes.set_title(format_spread(mean, spread, len(numbers)))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if by_fold and len(seeds) > 1:
        axes.legend(ncols=2, fontsize=8)
    return figure


def plot_curves(curves: Mapping[str, Sequence[Curve]]) -> Figure:
    """Plot each metric's curves of all members, with their mean and standard deviation by step."""
    figure = Figure(figsize=(4.5 * len(curves), 3.6), layout="constrained")
    for axes, (metric, members) in zip(
        figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True
    ):
        _plot_curve(axes, members)
        axes.set(xlabel="step", title=metric)
    return figure


def shared_steps(curves: Sequence[Curve]) -> list[int]:
    """The steps that all of some curves have."""
    return sorted(set.intersection(*({*curve} for curve in curves))) if curves else []


def _plot_curve(axes: Axes, members: Sequence[Curve]) -> None:
    for member in members:
        steps = sorted(member)
        axes.plot(steps, [member[step] for step in steps], color="C0", alpha=0.35, linewidth=0.8)
    shared = shared_steps(members)
    values = [[member[step] for member in members] for step in shared]
    means = [fmean(column) for column in values]
    spreads = [stdev(column) if len(column) > 1 else 0.0 for column in values]
    axes.plot(shared, means, color="C0", linewidth=2)
    low = [mean - spread for mean, spread in zip(means, spreads, strict=True)]
    high = [mean + spread for mean, spread in zip(means, spreads, strict=True)]
    axes.fill_between(shared, low, high, color="C0", alpha=0.2, linewidth=0)
