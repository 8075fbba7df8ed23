"""Optuna's plots of a study: each one as a PNG, and all of them in one interactive page, study.html.

Optuna draws complete trials only. Pruned ones are added here, as grey crosses at their last value.
"""

import logging
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

log = logging.getLogger(__name__)
logging.getLogger("matplotlib").setLevel(logging.WARNING)
ONE_OBJECTIVE = (
    "optimization_history",
    "intermediate_values",
    "param_importances",
    "parallel_coordinate",
    "slice",
    "timeline",
)
WITH_OBJECTIVE = ("optimization_history", "parallel_coordinate", "slice")  # on an axis, by its name
SEVERAL_OBJECTIVES = ("pareto_front", "timeline")
MIN_IMPORTANCES = 10  # complete trials for param_importances; and more than two for each parameter
MAX_LEGEND = 20  # trials that fit in a legend


def draw_plots(study: optuna.Study, folder: Path) -> None:
    """Draw all plots for which there are enough trials."""
    import matplotlib  # late, as plotly: both are slow to import
    import plotly.io

    matplotlib.use("Agg")
    folder.mkdir(exist_ok=True)
    html: list[str] = []
    for name in select_plots(study):
        try:
            interactive, axes = create_plot(study, name)
        except (ValueError, RuntimeError) as error:  # too few trials for it
            log.debug("no plot of %s yet: %s", name, error)
            continue
        html.append(plotly.io.to_html(interactive, include_plotlyjs=not html, full_html=False))
        figure = _figure_of(axes)
        if name == "parallel_coordinate":  # otherwise its last axis runs into the colour bar
            figure.set_size_inches(4 + 3 * len(study.best_params), 5)
        if name == "intermediate_values" and len(axes.lines) > MAX_LEGEND:
            axes.get_legend().remove()
        figure.savefig(folder / f"{name}.png", dpi=110, bbox_inches="tight")
        matplotlib.pyplot.close("all")
    (folder / "study.html").write_text(f"<title>{study.study_name}</title>\n" + "\n".join(html))


def _figure_of(axes: Any) -> Any:
    """Optuna returns axes, or an array of them."""
    return axes.figure if hasattr(axes, "figure") else axes.flat[0].figure


def select_plots(study: optuna.Study) -> list[str]:
    """Return the names of the plots that make sense for this study."""
    if len(study.directions) > 1:
        return list(SEVERAL_OBJECTIVES)
    trials = study.get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    params = {name for trial in complete for name in trial.params}
    excluded = set()
    if len(complete) < MIN_IMPORTANCES or len(complete) <= 2 * len(params):
        excluded.add("param_importances")
    if not any(trial.intermediate_values for trial in trials):
        excluded.add("intermediate_values")
    return [name for name in ONE_OBJECTIVE if name not in excluded]


def create_plot(study: optuna.Study, name: str) -> tuple[Any, Any]:
    """Draw one plot with plotly and with matplotlib.

    Returns:
        The figure of plotly, and the axes of matplotlib.

    Raises:
        ValueError: there are too few trials for it.
    """
    from optuna.visualization import matplotlib as static

    metric = study.metric_names[0] if study.metric_names else ""
    options = {"target_name": metric} if metric and name in WITH_OBJECTIVE else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figure = getattr(optuna.visualization, f"plot_{name}")(study, **options)
        axes = getattr(static, f"plot_{name}")(study, **options)
    if name in ("optimization_history", "slice"):
        _add_pruned(study, name, figure, axes)
    return figure, axes


def _add_pruned(study: optuna.Study, name: str, figure: Any, axes: Any) -> None:
    pruned = study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
    pruned = [trial for trial in pruned if trial.intermediate_values]
    if not pruned:
        return
    if name == "optimization_history":
        _add_crosses(figure, axes, [(trial.number, _last_value(trial)) for trial in pruned], {})
        return
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    params = sorted({name for trial in complete for name in trial.params})  # Optuna's order
    for column, param in enumerate(params):
        points = [
            (_coordinate(trial, param), _last_value(trial))
            for trial in pruned
            if param in trial.params
        ]
        has_columns = len(params) > 1
        subplot = {"row": 1, "col": column + 1} if has_columns else {}
        _add_crosses(figure, axes[column] if has_columns else axes, points, subplot)


def _add_crosses(
    figure: Any, axes: Any, points: list[tuple[Any, float]], subplot: dict[str, int]
) -> None:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    marker = {"symbol": "x", "color": "grey"}
    figure.add_scatter(
        x=xs, y=ys, mode="markers", name="pruned", marker=marker, showlegend=not subplot, **subplot
    )
    axes.scatter(xs, ys, marker="x", color="grey", label="pruned")
    if axes.get_legend() is not None:
        axes.legend()


def _last_value(trial: FrozenTrial) -> float:
    return trial.intermediate_values[max(trial.intermediate_values)]


def _coordinate(trial: FrozenTrial, param: str) -> Any:
    """The value on the axis of a parameter; Optuna labels choices with their `repr`."""
    value = trial.params[param]
    is_choice = isinstance(trial.distributions[param], optuna.distributions.CategoricalDistribution)
    return repr(value) if is_choice else value
