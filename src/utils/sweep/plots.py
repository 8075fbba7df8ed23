"""Optuna's plots of a study: each as a PNG, and all of them together in one interactive page."""

import logging
import warnings
from pathlib import Path
from typing import Any

import optuna

log = logging.getLogger(__name__)
logging.getLogger("matplotlib").setLevel(logging.WARNING)
SINGLE = ("optimization_history", "param_importances", "parallel_coordinate", "slice", "timeline")
MULTIPLE = ("pareto_front", "timeline")


def draw(study: optuna.Study, folder: Path) -> None:
    """Draw all that there are enough trials for."""
    import matplotlib
    import plotly.io

    matplotlib.use("Agg")
    folder.mkdir(exist_ok=True)
    page: list[str] = []
    for name in SINGLE if len(study.directions) == 1 else MULTIPLE:
        try:
            figure, axes = _plots(study, name)
        except (ValueError, RuntimeError) as error:  # too few trials for it
            log.debug("no plot of %s yet: %s", name, error)
            continue
        page.append(plotly.io.to_html(figure, include_plotlyjs=not page, full_html=False))
        still = _figure_of(axes)
        if name == "parallel_coordinate":  # else its last axis runs into its colours
            still.set_size_inches(4 + 3 * len(study.best_params), 5)
        still.savefig(folder / f"{name}.png", dpi=110, bbox_inches="tight")
        matplotlib.pyplot.close("all")
    (folder / "study.html").write_text(f"<title>{study.study_name}</title>\n" + "\n".join(page))


def _plots(study: optuna.Study, name: str) -> tuple[Any, Any]:
    from optuna.visualization import matplotlib as still

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        moving = getattr(optuna.visualization, f"plot_{name}")(study)
        return moving, getattr(still, f"plot_{name}")(study)


def _figure_of(axes: Any) -> Any:
    """Optuna gives axes, or an array of them."""
    return axes.figure if hasattr(axes, "figure") else axes.flat[0].figure
