"""Copying an experiment's two folders starts the next one, with no edit."""

from pathlib import Path

from conftest import DATASET, FEATURE, MODEL, QUICK, Lab, copy_experiment

CHAIN = {
    "dataset/dataset01": (DATASET, "source=sample"),
    "feature/feature01": (FEATURE, "dataset=dataset02"),
    "model/model01": (MODEL, *QUICK, "feature=feature02"),
}


def test_copies_run_unedited(lab: Lab, fresh: Lab) -> None:
    """A copied dataset, feature and model run as they are, and track, log and write under their own names."""
    before = {path: time for path, time in fresh.files().items() if "mlflow.db" not in path.name}
    for name, (program, *overrides) in CHAIN.items():
        copy = name.replace("01", "02")
        copy_experiment(fresh, name, copy)
        said = fresh.done(program.replace("01/", "02/"), *overrides)
        (run,) = fresh.runs(copy)
        assert run.info.status == "FINISHED"
        assert Path(run.info.artifact_uri).is_relative_to(fresh.root / "logs/mlruns" / copy)
        for place in ("outputs", "logs/logging_"):
            assert list((fresh.root / place / copy).rglob("*.*"))
        assert len(fresh.runs(name)) == 1
    assert "cp -r src/model/model02 src/model/model03" in said
    assert {path: time for path, time in fresh.files().items() if path in before} == before
    assert folders(fresh, "_data/data") == [*folders(lab, "_data/data"), "dataset02"]

    one, two = lab.newest(), fresh.newest("model/model02")
    assert [used.dataset.name for used in two.inputs.dataset_inputs] == ["feature/feature02"]
    assert two.data.metrics["test_loss"] == one.data.metrics["test_loss"]
    patch = (fresh.artifacts(two) / "provenance/changes.patch").read_text()
    assert "+++ b/src/model/model02/" in patch
    assert "+++ b/config/model/model02/" in patch


def folders(lab: Lab, place: str) -> list[str]:
    return sorted(path.name for path in (lab.root / place).iterdir() if path.is_dir())
