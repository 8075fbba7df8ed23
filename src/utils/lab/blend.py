"""`lab blend`: one prediction from those of several runs, groups or blends, as a run of its own.

The weights of the runs are found on their out-of-fold predictions (`src/utils/lab/blend_weights.py`). The
blend's own out-of-fold predictions are made inside a cross-validation: the weights for the rows of a fold are
found on all other rows, so that its score is not better than it would be on new data. The weights of the test
predictions are found on all rows.

The metric is the function `score(target, prediction)` of the first run whose program defines it, in the
direction of that run's objective.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.utils.errors import UserError
from src.utils.lab.blend_weights import METHODS, Metric, Rows, cross_validate, random_folds
from src.utils.paths import BLENDS, ROOT
from src.utils.predictions import (
    FOLD,
    OOF,
    PREDICTION,
    TARGET,
    TEST,
    Predictions,
    align,
    read_predictions,
)
from src.utils.run import Run, create_run
from src.utils.runs.artifacts import log_inputs_of, save_provenance
from src.utils.runs.source_code import copy_source, defines, import_file
from src.utils.store.objective import MONITOR, OOF_SCORE, Objective
from src.utils.store.reader import find_artifact, open_reader
from src.utils.store.record import BLENDED, RunRecord
from src.utils.store.reference import find_result
from src.utils.terminal import format_metric, lab_command, print_hints
from src.utils.tracking import check_trust

import numpy as np
from rich import box, get_console
from rich.markup import escape
from rich.table import Table


@dataclass(frozen=True)
class Blend:
    """Runs with their weights, and what comes out."""

    runs: Sequence[RunRecord]
    method: str
    metric: Metric
    scored_by: RunRecord  # the run whose program has the metric
    program: Path
    weights: np.ndarray  # found on all rows
    losses: Sequence[float]  # of each run
    losses_without: Sequence[float]  # of a blend without it
    loss: float  # of the blend
    oof: Predictions
    test: Predictions | None

    def score(self, loss: float) -> float:
        """The score that a loss stands for."""
        return -loss if self.metric.maximize else loss


def blend_runs(references: Sequence[str], method: str, trust_source: bool = False) -> Blend:
    """Find the weights of runs.

    Args:
        references: of two or more runs, groups or blends; a study means its best trial.
        method: `hill-climb`, `ridge` or `mean`.
        trust_source: whether source code that is saved in a store elsewhere may be run.

    Raises:
        UserError: there is no such run or method, a run has no out-of-fold predictions or other rows than the
            first, no program defines `score`, or it fails.
    """
    if method not in METHODS:
        raise UserError(f"--method {method}: there are {', '.join(METHODS)}")
    runs = _find_runs(references)
    aligned, test = _read(runs, OOF), _read(runs, TEST)
    scored_by, program = _find_program(runs)
    metric = _load_metric(scored_by, program, trust_source)
    oof, rows, folds = _table(aligned), _rows(aligned), _folds(aligned)
    losses = [metric.loss(rows.target, one) for one in rows.stack]
    with get_console().status("finding the weights …"):
        weights = METHODS[method](rows, metric)
        blended = cross_validate(method, rows, metric, folds)
        others = [rows.without(run) for run in range(len(runs))]
        without = [cross_validate(method, other, metric, folds) for other in others]
    return Blend(
        runs=runs,
        method=method,
        metric=metric,
        scored_by=scored_by,
        program=program,
        weights=weights,
        losses=losses,
        losses_without=[metric.loss(rows.target, one) for one in without],
        loss=metric.loss(rows.target, blended),
        oof=oof.with_values(blended),
        test=_weighted_mean(test, weights) if test else None,
    )


def _find_runs(references: Sequence[str]) -> list[RunRecord]:
    reader = open_reader()
    runs = [find_result(reference, reader) for reference in references]
    ids = [run.id for run in runs]
    if len(ids) < 2 or len({*ids}) < len(ids):
        raise UserError("lab blend needs two or more runs, each once")
    return runs


def _read(runs: Sequence[RunRecord], split: str) -> list[Predictions]:
    """The predictions of all runs in the same order; none if one run has no test predictions."""
    found = {f"run {run.short} ({run.name})": read_predictions(run, split) for run in runs}
    have = {name: one for name, one in found.items() if one is not None}
    lack = [name for name in found if name not in have]
    if split == OOF and (lack or not next(iter(have.values())).columns(TARGET)):
        raise UserError(
            f"{next(iter(lack or have))} has no out-of-fold predictions{'' if lack else ' with a target'}: "
            'its program should call run.predictions("oof", ids, values, target)'
        )
    return [] if lack else align(have)


def _find_program(runs: Sequence[RunRecord]) -> tuple[RunRecord, Path]:
    """The first run that has kept a program with a `score`, or whose program has one by now."""
    names = [Path(run.tags.get("mlflow.source.name", "")) for run in runs]
    kept = [
        find_artifact(run, f"source/{name.name}") for run, name in zip(runs, names, strict=True)
    ]
    now = [ROOT / name for name in names]
    for run, program in zip([*runs, *runs], [*kept, *now], strict=True):
        if program is not None and defines(program, "score"):
            return run, program
    raise UserError(
        "no program of these runs defines the metric: write def score(target, prediction) -> float at the "
        f"top level of {names[0]}"
    )


def _load_metric(run: RunRecord, program: Path, trust_source: bool) -> Metric:
    objective = Objective.of(run)
    if objective is None:
        raise UserError(
            f"run {run.short} does not say whether a higher or a lower score is better: its program should "
            'call run.objective(metric, "max" or "min")'
        )
    check_trust(trust_source)
    module = import_file(program, f"score_{run.id}_{program.stem}")
    return Metric(module.score, objective.maximize)


def _table(aligned: Sequence[Predictions]) -> Predictions:
    """The first predictions, with the folds of the first that know them."""
    folds = next((one.table[FOLD] for one in aligned if FOLD in one.table), None)
    return Predictions(aligned[0].table.assign(**({} if folds is None else {FOLD: folds})))


def _rows(aligned: Sequence[Predictions]) -> Rows:
    target = aligned[0].target
    assert target is not None  # `_read` has refused them
    names = [name.removeprefix(f"{PREDICTION}_") for name in aligned[0].columns(PREDICTION)]
    return Rows(target, _stack(aligned), names)


def _folds(aligned: Sequence[Predictions]) -> np.ndarray:
    folds = _table(aligned).table.get(FOLD)
    known = folds is not None and folds.nunique() > 1
    return np.asarray(folds) if known else random_folds(len(aligned[0].ids))


def _stack(aligned: Sequence[Predictions]) -> np.ndarray:
    return np.stack([one.values for one in aligned]).astype(np.float64)


def _weighted_mean(parts: Sequence[Predictions], weights: np.ndarray) -> Predictions:
    return parts[0].with_values(np.tensordot(weights, _stack(parts), axes=1))


def record_blend(blend: Blend, note: str) -> Run:
    """Record a blend as a finished run of the MLflow experiment `model/blend`.

    Raises:
        UserError: the MLflow store can't be opened.
    """
    objective = Objective(OOF_SCORE, blend.metric.maximize)
    tags = {
        BLENDED: " ".join(run.id for run in blend.runs),
        "blend.weights": " ".join(f"{weight:.4g}" for weight in blend.weights),
        "blend.method": blend.method,
        MONITOR: objective.to_tag(),
        "mlflow.note.content": note,
        "mlflow.source.name": blend.scored_by.tags["mlflow.source.name"],
        "mlflow.source.type": "LOCAL",
        **_shared_data(blend.runs),
    }
    run = create_run(BLENDS, tags, [])
    try:
        run.tag(save_provenance(run.folder / "provenance"))
        run.tag({"command": _command(blend)})
        for one in blend.runs:
            log_inputs_of(run.client, one.id, run.id)
        run.log({OOF_SCORE: blend.score(blend.loss)})
        blend.oof.save(run.folder, OOF)
        if blend.test is not None:
            blend.test.save(run.folder, TEST)
        copy_source(blend.program.parent, run.folder / "source")
    except BaseException:
        run.close("FAILED")
        raise
    run.close("FINISHED")
    return run


def _command(blend: Blend) -> str:
    """The command that makes it again; what was typed may name other runs later (`latest`)."""
    return f"lab blend {' '.join(run.short for run in blend.runs)} --method {blend.method}"


def _shared_data(runs: Sequence[RunRecord]) -> Mapping[str, str]:
    """The tags `data.…` that all runs have in common."""
    common = set.intersection(*({*run.tags.items()} for run in runs))
    return {name: value for name, value in common if name.startswith("data.")}


def print_blend(blend: Blend, run: Run) -> None:
    """Print each run's score, weight and contribution, the blend's score, and commands to type next."""
    console = get_console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("run")
    for name in (OOF_SCORE, "weight", "without it", "contributes"):
        table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    parts = zip(blend.runs, blend.losses, blend.weights, blend.losses_without, strict=True)
    for one, loss, weight, without in sorted(parts, key=lambda part: part[1]):
        scores = [format_metric(blend.score(value)) for value in (loss, without)]
        gain = without - blend.loss
        contributes = f"{'-' if gain < 0 else '+'}{format_metric(abs(gain))}"
        name = escape(f"{one.short} {one.name}")
        table.add_row(name, scores[0], f"{weight:.2f}", scores[1], contributes)
    table.add_section()
    score = format_metric(blend.score(blend.loss))
    table.add_row(f"{run.id[:8]} the blend", score, style="bold")
    console.print(table, highlight=False)
    print(_verdict(blend))
    hints = {"show": f"{lab_command()} show {run.id[:8]}"}
    if blend.test is not None:
        hints["submit"] = f"{lab_command()} submit {run.id[:8]}"
    print_hints(hints)


def as_dict(blend: Blend, run: Run) -> dict[str, object]:
    """The blend as `lab blend --json` prints it."""
    parts = zip(blend.runs, blend.losses, blend.weights, blend.losses_without, strict=True)
    return {
        "run": run.id,
        "method": blend.method,
        OOF_SCORE: blend.score(blend.loss),
        "maximize": blend.metric.maximize,
        "blended": [
            {
                "run": one.id,
                OOF_SCORE: blend.score(loss),
                "weight": float(weight),
                "score_without": blend.score(without),
            }
            for one, loss, weight, without in parts
        ],
    }


def _verdict(blend: Blend) -> str:
    best = int(np.argmin(blend.losses))
    gain, short = blend.losses[best] - blend.loss, blend.runs[best].short
    objective = Objective.of(blend.scored_by)
    better = f"{'higher' if blend.metric.maximize else 'lower'} is better"
    better += f", as {objective.metric} says" if objective else ""
    if gain == 0:
        return f"The best run alone, {short}, is as good as the blend ({better})."
    if gain < 0:
        by = format_metric(-gain)
        return f"The best run alone, {short}, is better than the blend, by {by} ({better})."
    return f"The blend is better than the best run alone, {short}, by {format_metric(gain)} ({better})."
