"""The plots of a study: what is drawn, and of which trials."""

from typing import Any

from src.utils.sweep import plots

import optuna
from optuna.trial import TrialState


def drawn(figure: Any, name: str) -> list[float]:
    """The values of all points of that name."""
    return [y for trace in figure.data if trace.name == name for y in trace.y]


def test_plots_of_pruned_trials() -> None:
    """Pruned trials are in the plots of history and parameters; importance needs ten complete trials."""
    study = optuna.create_study(direction="maximize")
    space = {
        "x": optuna.distributions.FloatDistribution(0, 1),
        "kind": optuna.distributions.CategoricalDistribution(["a", "b"]),
    }
    for number in range(12):
        params = {"x": number / 12, "kind": "ab"[number % 2]}
        state = TrialState.PRUNED if number % 3 == 2 else TrialState.COMPLETE
        value = None if state is TrialState.PRUNED else float(number)
        values = {1: number / 2, 2: float(number)}
        study.add_trial(optuna.create_trial(
            state=state, value=value, params=params, distributions=space, intermediate_values=values
        ))  # fmt: skip
    assert "param_importances" not in plots.select_plots(study)
    for name, subplots in {"optimization_history": 1, "slice": 2}.items():
        figure, _ = plots.create_plot(study, name)
        assert sorted(drawn(figure, "pruned")) == sorted([2.0, 5.0, 8.0, 11.0] * subplots)
    figure, _ = plots.create_plot(study, "intermediate_values")
    assert len(figure.data) == 12
