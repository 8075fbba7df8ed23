"""Optuna's plots of a study: each as a PNG, and all of them together in one interactive page.

Optuna draws complete trials only, so pruned ones are added, as grey crosses at their last value.
"""

import logging
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

log = logging.getLogger(__name__)
logging.getLogger("matplotlib").setLevel(logging.WARNING)
SINGLE = (
    "optimization_history",
    "intermediate_values",
    "param_importances",
    "parallel_coordinate",
    "slice",
    "timeline",
)
MULTIPLE = ("pareto_front", "timeline")
ENOUGH = 10  # complete trials, to say which parameter matters; and more than two for each parameter

LEGEND = 20  # trials that a legend has room for


def draw(study: optuna.Study, folder: Path) -> None:
    """Draw all that there are enough trials for."""
    import matplotlib
    import plotly.io

    matplotlib.use("Agg")
    folder.mkdir(exist_ok=True)
    page: list[str] = []
    for name in wanted(study):
        try:
            figure, axes = figures(study, name)
        except (ValueError, RuntimeError) as error:  # too few trials for it
            log.debug("no plot of %s yet: %s", name, error)
            continue
        page.append(plotly.io.to_html(figure, include_plotlyjs=not page, full_html=False))
        still = _figure_of(axes)
        if name == "parallel_coordinate":  # else its last axis runs into its colours
            still.set_size_inches(4 + 3 * len(study.best_params), 5)
        if name == "intermediate_values" and len(axes.lines) > LEGEND:
            axes.get_legend().remove()
        still.savefig(folder / f"{name}.png", dpi=110, bbox_inches="tight")
        matplotlib.pyplot.close("all")
    (folder / "study.html").write_text(f"<title>{study.study_name}</title>\n" + "\n".join(page))


def wanted(study: optuna.Study) -> list[str]:
    """The plots that say something of this study."""
    if len(study.directions) > 1:
        return list(MULTIPLE)
    trials = study.get_trials(deepcopy=False)
    complete = [one for one in trials if one.state is TrialState.COMPLETE]
    params = {name for one in complete for name in one.params}
    without = set()
    if len(complete) < ENOUGH or len(complete) <= 2 * len(params):
        without.add("param_importances")
    if not any(one.intermediate_values for one in trials):
        without.add("intermediate_values")
    return [name for name in SINGLE if name not in without]


def figures(study: optuna.Study, name: str) -> tuple[Any, Any]:
    """A plot twice: as plotly draws it, and matplotlib's axes. ValueError where there are too few trials."""
    from optuna.visualization import matplotlib as still

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        moving = getattr(optuna.visualization, f"plot_{name}")(study)
        axes = getattr(still, f"plot_{name}")(study)
    _add_pruned(study, name, moving, axes)
    return moving, axes


def _add_pruned(study: optuna.Study, name: str, figure: Any, axes: Any) -> None:
    pruned = study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
    pruned = [one for one in pruned if one.intermediate_values]
    if not pruned or name not in ("optimization_history", "slice"):
        return
    if name == "optimization_history":
        _cross(figure, axes, [(one.number, _last(one)) for one in pruned], {})
        return
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    params = sorted({name for one in complete for name in one.params})  # as Optuna orders them
    for column, param in enumerate(params):
        points = [(_place(one, param), _last(one)) for one in pruned if param in one.params]
        several = len(params) > 1
        place = {"row": 1, "col": column + 1} if several else {}
        _cross(figure, axes[column] if several else axes, points, place)


def _cross(figure: Any, axes: Any, points: list[tuple[Any, float]], place: dict[str, int]) -> None:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    marker = {"symbol": "x", "color": "grey"}
    figure.add_scatter(
        x=xs, y=ys, mode="markers", name="pruned", marker=marker, showlegend=not place, **place
    )
    axes.scatter(xs, ys, marker="x", color="grey", label="pruned")
    if axes.get_legend() is not None:
        axes.legend()


def _last(trial: FrozenTrial) -> float:
    return trial.intermediate_values[max(trial.intermediate_values)]


def _place(trial: FrozenTrial, param: str) -> Any:
    """On the axis; Optuna writes choices as Python does."""
    value = trial.params[param]
    chosen = isinstance(trial.distributions[param], optuna.distributions.CategoricalDistribution)
    return repr(value) if chosen else value


def _figure_of(axes: Any) -> Any:
    """Optuna gives axes, or an array of them."""
    return axes.figure if hasattr(axes, "figure") else axes.flat[0].figure
