"""A study in MLflow: one parent run with the best, the table of trials and the plots; a child a trial."""

import logging
import threading
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any

from src.utils.layout import Experiment
from src.utils.record import record
from src.utils.run import Run, create_run
from src.utils.store import open_store
from src.utils.summary import say_study

import optuna
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial, TrialState

log = logging.getLogger(__name__)
logging.getLogger("matplotlib").setLevel(logging.WARNING)
RUN_ID = "run_id"  # user attribute of the study, and of each trial
REFRESH = 20.0  # seconds between two redrawings while the sweep runs
SINGLE = ("optimization_history", "param_importances", "parallel_coordinate", "slice", "timeline")
MULTIPLE = ("pareto_front", "timeline")


class StudyReport:
    """Opened for the time of a sweep; redraws in the background whenever a trial has ended."""

    def __init__(self, study: optuna.Study, here: Experiment) -> None:
        self.study, self.here = study, here
        self.client = open_store()
        self.run = self._parent()
        self._news, self._over = threading.Event(), threading.Event()
        self._painter = threading.Thread(target=self._paint, daemon=True)

    def _parent(self) -> Run:
        """The run of the study: a new one, or, on resume, the one it had."""
        known = self.study.user_attrs.get(RUN_ID)
        if known is not None:
            self.client.update_run(known, status="RUNNING")
            return Run(self.client, known, self.here, [])
        name = self.study.study_name
        run = create_run(self.here, {"optuna.study": name}, [], name)
        record(self.client, run.id, run.folder, self.here, None)
        self.study.set_user_attr(RUN_ID, run.id)
        return run

    def __enter__(self) -> "StudyReport":
        self._painter.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._news.set()
        self._painter.join()
        self.refresh()
        self.run.close("FINISHED" if kind is None else "FAILED")

    def trial_ended(self, trial: FrozenTrial) -> None:
        """Say on the trial's run how it ended, and end it if its process could not."""
        run_id = trial.user_attrs.get(RUN_ID)
        if run_id is not None:
            self.client.set_tag(run_id, "optuna.state", trial.state.name.lower())
            if trial.state is TrialState.FAIL:
                self.client.set_tag(run_id, "reason", trial.user_attrs.get("reason", "unknown"))
                if self.client.get_run(run_id).info.status == "RUNNING":
                    self.client.set_terminated(run_id, "FAILED")
        self._news.set()

    def summarise(self, folder: Path) -> None:
        """Print what was found and what comes next, and write Hydra's `optimization_results.yaml`."""
        results = results_of(self.study)
        folder.mkdir(parents=True, exist_ok=True)
        for place in (folder, self.run.folder):
            OmegaConf.save(results, place / "optimization_results.yaml")
        say_study(self.study, self.here)

    def _paint(self) -> None:
        while not self._over.wait(REFRESH):
            if self._news.is_set():
                self._news.clear()
                self.refresh()

    def refresh(self) -> None:
        """Write the best so far, the table and the plots."""
        done = self.study.get_trials(states=(TrialState.COMPLETE,))
        if not done:
            return
        frame = self.study.trials_dataframe()
        frame.to_csv(self.run.folder / "trials.csv", index=False)
        best = self.study.best_trials
        if len(self.study.directions) == 1:
            best = [self.study.best_trial]
            self.run.log({"best_value": best[0].value or 0.0}, len(done))
            self.run.metrics.flush()
        tags = {f"best.{name}": str(value) for name, value in best[0].params.items()}
        tags |= {
            "best.value": str(best[0].values),
            "best.run_id": best[0].user_attrs.get(RUN_ID, ""),
        }
        self.run.tag(tags)
        draw(self.study, self.run.folder / "plots")


def results_of(study: optuna.Study) -> dict[str, Any]:
    """In the form of the official sweeper."""
    best = study.best_trials if study.get_trials(states=(TrialState.COMPLETE,)) else []
    if len(study.directions) > 1:
        return {
            "name": "optuna",
            "solutions": [{"params": t.params, "values": t.values} for t in best],
        }
    if not best:
        return {"name": "optuna", "best_params": None, "best_value": None}
    return {"name": "optuna", "best_params": best[0].params, "best_value": best[0].value}


def draw(study: optuna.Study, folder: Path) -> None:
    """Optuna's plots: each as a PNG, and all of them together in one interactive page."""
    import matplotlib
    import plotly.io
    from optuna.visualization import matplotlib as still

    matplotlib.use("Agg")
    folder.mkdir(exist_ok=True)
    page: list[str] = []
    for name in SINGLE if len(study.directions) == 1 else MULTIPLE:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                figure = getattr(optuna.visualization, f"plot_{name}")(study)
                axes = getattr(still, f"plot_{name}")(study)
        except (ValueError, RuntimeError) as error:  # too few trials for it
            log.debug("no plot of %s yet: %s", name, error)
            continue
        page.append(plotly.io.to_html(figure, include_plotlyjs=not page, full_html=False))
        _figure_of(axes).savefig(folder / f"{name}.png", dpi=110, bbox_inches="tight")
        matplotlib.pyplot.close("all")
    (folder / "study.html").write_text(f"<title>{study.study_name}</title>\n" + "\n".join(page))


def _figure_of(axes: Any) -> Any:
    """Optuna gives axes, or an array of them."""
    return axes.figure if hasattr(axes, "figure") else axes.flat[0].figure
