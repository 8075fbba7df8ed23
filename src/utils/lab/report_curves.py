"""The curves of a report: a chart for each metric, in which long curves are thinned out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, stdev

from src.utils.lab.report_charts import Chart, Line, is_finite, line_chart
from src.utils.lab.report_runs import Subject
from src.utils.store.objective import result_metrics
from src.utils.store.reader import RunReader
from src.utils.store.record import Curve

MOST_CHARTS = 12  # of curves; then come other metrics
MOST_POINTS = 6000  # of all curves of a chart
FEWEST_POINTS = 60  # of one curve
MOST_TOGETHER = 4  # runs whose training and validation are in one chart
TRAIN, VAL, EPOCH = "train_", "val_", "epoch"
Band = list[tuple[int, float, float]]  # step or epoch, value, standard deviation


@dataclass(frozen=True)
class History:
    """A metric in the course of a run."""

    by_step: Curve
    steps: dict[int, int]  # of each epoch; empty if there is not one value in each

    @property
    def by_epoch(self) -> Curve:
        return {epoch: self.by_step[step] for epoch, step in self.steps.items()}


@dataclass(frozen=True)
class Curves:
    """The curves of a metric."""

    metric: str
    x: str  # step, or epoch where all runs have logged it
    lines: list[Line]
    is_thinned: bool


@dataclass(frozen=True)
class CurveCharts:
    """The charts of curves, and what they lack."""

    charts: list[Chart]
    left_out: list[str]


def draw_curves(reader: RunReader, subject: Subject) -> CurveCharts:
    """Draw a chart for each metric with a history, the objective first."""
    metrics = _metrics(subject)
    found = [curves for name in metrics if (curves := _read(reader, subject, name)).lines]
    shown = found[:MOST_CHARTS]
    left_out = []
    if any(one.is_thinned for one in shown):
        left_out.append(
            "most points of long curves: of each stretch the least and the greatest value are drawn, "
            f"{MOST_POINTS:,} points a chart"
        )
    if len(found) > len(shown):
        names = ", ".join(one.metric for one in found[MOST_CHARTS:])
        left_out.append(f"curves of {len(found) - len(shown)} more metrics: {names}")
    return CurveCharts([*_charts(shown)], left_out)


def _metrics(subject: Subject) -> list[str]:
    """The metrics of results, the objective first."""
    runs = [*subject.runs, *(run for some in subject.members.values() for run in some)]
    names = result_metrics({name for run in runs for name in run.metrics})
    first = subject.objective.metric if subject.objective else ""
    return sorted(names, key=lambda name: name != first)


def _charts(found: Sequence[Curves]) -> Iterator[Chart]:
    """Training and validation together, where the runs are few."""
    known = {one.metric: one for one in found}
    drawn: set[str] = set()
    for metric, curves in sorted(known.items(), key=lambda item: item[0].startswith(TRAIN)):
        name = metric.removeprefix(VAL)
        other = known.get(f"{TRAIN}{name}" if metric.startswith(VAL) else "")
        if other and other.x == curves.x and len(curves.lines) <= MOST_TOGETHER:
            dashed = [Line(one.run, one.colour, one.points, dashed=True) for one in other.lines]
            svg = line_chart(metric, curves.x, [*dashed, *curves.lines])
            yield Chart(name, svg, "solid: validation, dashed: training")
            drawn.add(other.metric)
        elif metric not in drawn:
            yield Chart(metric, line_chart(metric, curves.x, curves.lines))


def _read(reader: RunReader, subject: Subject, metric: str) -> Curves:
    """The curves of a metric, of a group the mean of its members with their standard deviation."""
    known = _histories(reader, subject, metric)
    has_epochs = all(one.steps for one in known.values())
    curves = {}
    for number, run in enumerate(subject.runs):
        some = [known[one.id] for one in subject.members.get(run.id, [run]) if one.id in known]
        band = _mean(some, has_epochs) if run.is_group else _single(some, has_epochs)
        if len(band) > 1:
            curves[number] = band
    most = max(FEWEST_POINTS, MOST_POINTS // max(1, len(curves)))
    lines = [_line(subject, number, thin(band, most)) for number, band in curves.items()]
    is_thinned = any(len(band) > most for band in curves.values())
    return Curves(metric, EPOCH if has_epochs else "step", lines, is_thinned)


def _histories(reader: RunReader, subject: Subject, metric: str) -> dict[str, History]:
    runs = [*subject.runs, *(run for some in subject.members.values() for run in some)]
    epochs = reader.curves(runs, EPOCH)
    return {
        run_id: History(drawn, _epochs(drawn, epochs.get(run_id, {})))
        for run_id, curve in reader.curves(runs, metric).items()
        if len(drawn := {step: value for step, value in curve.items() if is_finite(value)}) > 1
    }


def _epochs(curve: Curve, epochs: Curve) -> dict[int, int]:
    """The step of each epoch, the first of which is 1."""
    found = {round(epochs[step]) + 1: step for step in curve if step in epochs}
    return found if len(found) == len(curve) else {}


def _single(histories: Sequence[History], by_epoch: bool) -> Band:
    curves = [one.by_epoch if by_epoch else one.by_step for one in histories]
    return [(x, value, 0.0) for curve in curves for x, value in curve.items()]


def _mean(histories: Sequence[History], by_epoch: bool) -> Band:
    """The mean of members, and their spread. Folds of different sizes have different steps for an epoch."""
    has_epochs = all(one.steps for one in histories)
    curves = [one.by_epoch if has_epochs else one.by_step for one in histories]
    band = []
    for at in sorted(set.intersection(*map(set, curves))) if curves else ():
        values = [one[at] for one in curves]
        x = at
        if has_epochs and not by_epoch:
            x = round(fmean(one.steps[at] for one in histories))
        band.append((x, fmean(values), stdev(values) if len(values) > 1 else 0.0))
    return band


def _line(subject: Subject, number: int, band: Band) -> Line:
    run = subject.runs[number]
    points = [(x, value) for x, value, _ in band]
    ends = [(x, value - spread, value + spread) for x, value, spread in band]
    return Line(number, subject.colour(run), points, band=ends if run.is_group else ())


def thin(band: Band, most: int) -> Band:
    """At most so many points: of each stretch of a curve the least and the greatest."""
    if len(band) <= most:
        return band
    parts = most // 2
    bounds = [len(band) * part // parts for part in range(parts + 1)]
    kept: Band = []
    for start, end in pairwise(bounds):
        stretch = band[start:end]
        ends = (min(stretch, key=lambda one: one[1]), max(stretch, key=lambda one: one[1]))
        kept += sorted(set(ends))
    return kept
