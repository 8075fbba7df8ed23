"""The stages before a model: they run when they must, and leave a whole result or none."""

import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from conftest import DATASET, FEATURE, MODEL, QUICK, Lab, copy_experiment

FEATURES = "feature/feature01"


def result(lab: Lab, stage: str = "data/dataset01") -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (lab.root / "_data" / stage).glob("*")}


def is_whole(folder: Path) -> bool:
    """Whether a folder holds exactly what its manifest says."""
    manifest = json.loads((folder / "manifest.json").read_text())
    files = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.iterdir()}
    del files["manifest.json"]
    return bool(files) and files == manifest["files"]


def drafts(lab: Lab) -> list[Path]:
    return list((lab.root / "_data/versions").rglob("*.draft"))


def test_skipping(fresh: Lab) -> None:
    """A stage runs again when its settings, code or sources changed; else it is skipped and says so."""

    def redone(program: str, *overrides: str) -> bool:
        stage = "/".join(program.split("/")[1:3])
        before = len(fresh.runs(stage))
        said = fresh.done(program, *overrides)
        again = len(fresh.runs(stage)) > before
        assert again != ("is up to date" in said)
        return again

    assert not redone(FEATURE, "note=other words")
    assert redone(FEATURE, "val_fraction=0.2")
    with (fresh.root / FEATURE).open("a") as code:
        code.write("# another line\n")
    assert redone(FEATURE, "val_fraction=0.2")
    assert not redone(DATASET, "source=sample")
    assert redone(DATASET, "source=sample", "noise=150")
    assert redone(FEATURE, "val_fraction=0.2")


def test_sigkill_while_writing(fresh: Lab) -> None:
    """Killed at any moment, a stage leaves a whole result; the next call recovers and tidies up."""
    place = fresh.root / "_data/data/dataset01"
    survived = 0
    for wait in (0.0, 0.003, 0.01, 0.02, 0.05):  # seconds after the first sign of writing
        stage = fresh.start(sys.executable, fresh.root / DATASET, "source=sample", "force=true")
        while not drafts(fresh) and stage.poll() is None:
            time.sleep(0.0005)
        time.sleep(wait)
        stage.send_signal(signal.SIGKILL)
        survived += stage.wait() == 0
        stage.communicate()
        assert is_whole(place)
        assert len(drafts(fresh)) <= 1
    assert survived < 5
    fresh.done(DATASET, "source=sample", "force=true")
    assert is_whole(place)
    assert not drafts(fresh)


def test_killed_before_the_link(fresh: Lab) -> None:
    """Killed before the data are linked, or where somebody has deleted them, they are found by the next call;
    where the version is deleted too, the next call makes the same one, bit for bit."""
    place, before = fresh.root / "_data" / FEATURES, result(fresh, FEATURES)["digits.safetensors"]
    version = place.resolve()
    for deleted, said in ([place], "is back to version"), ([place, version], "1000 test images"):
        subprocess.run(["rm", "-rf", *deleted], check=True)
        assert said in fresh.done(FEATURE)
        assert is_whole(place)
        assert result(fresh, FEATURES)["digits.safetensors"] == before


def test_sigterm_while_building(bare: Lab) -> None:
    """SIGTERM ends the building of an input as well, whose run is killed, and says what was being built."""
    program = bare.root / DATASET
    first = "    local = cfg.source"
    slow = f"    import time\n    print('now', flush=True)\n    time.sleep(100)\n{first}"
    program.write_text(program.read_text().replace(first, slow, 1))
    process = bare.start(sys.executable, bare.root / FEATURE)
    assert process.stdout
    while process.stdout.readline() != "now\n":
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert "SIGTERM: stopped while dataset/dataset01 was being built" in out + err
    assert bare.newest("dataset/dataset01").info.status == "KILLED"


def test_missing_feature(bare: Lab) -> None:
    """A model whose feature is missing builds it and its dataset first, and warns where they are a sample."""
    copy_experiment(bare, "feature/feature01", "feature/feature02")
    said = bare.done(MODEL, *QUICK, "max_epochs=1", "feature=feature02")
    assert "feature/feature02 is missing: building it first" in said
    assert "dataset/dataset01 is missing: building it first" in said
    assert "SAMPLE DATA" in said
    assert bare.newest().data.tags["data.source"] == "sample"


def test_unknown_dataset(fresh: Lab) -> None:
    """A source that is neither there nor can be built is named in one line, before there is a run."""
    refused = fresh.run(FEATURE, "dataset=dataset99")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")
    assert refused.stderr.count("\n") == 1
    assert "dataset99" in refused.stderr
    assert len(fresh.runs("feature/feature01")) == 1


def test_lineage(lab: Lab) -> None:
    """Digests and run ids lead from a model's run back to the data; what was read is what was written."""

    def data(experiment: str, context: str) -> tuple[str, str]:
        """Digest and origin of what the newest run of an experiment read or wrote."""
        tagged = [
            (one.dataset, {t.key: t.value for t in one.tags})
            for one in lab.newest(experiment).inputs.dataset_inputs
        ]
        ((dataset, tags),) = [(d, t) for d, t in tagged if t["mlflow.data.context"] == context]
        return dataset.digest, tags["run_id"]

    feature, dataset = lab.newest("feature/feature01"), lab.newest("dataset/dataset01")
    assert data("model/model01", "input") == data("feature/feature01", "output")
    assert data("model/model01", "input")[1] == feature.info.run_id
    assert data("feature/feature01", "input") == data("dataset/dataset01", "output")
    assert data("feature/feature01", "input")[1] == dataset.info.run_id
    for stage, experiment in {
        "data/dataset01": "dataset/dataset01",
        "feature/feature01": "feature/feature01",
    }.items():
        manifest = json.loads((lab.root / "_data" / stage / "manifest.json").read_text())
        assert manifest["digest"].startswith(data(experiment, "output")[0])
        assert is_whole(lab.root / "_data" / stage)


def test_sample_is_loud(lab: Lab) -> None:
    """Every run on the sample is tagged so, and a training warns of it in its log."""
    for experiment in ("dataset/dataset01", "feature/feature01", "model/model01"):
        assert lab.newest(experiment).data.tags["data.source"] == "sample"
    for line in ("[WARNING] SAMPLE DATA", "epoch 2/2"):
        assert line in (lab.artifacts(lab.newest()) / "logs/run.log").read_text()


def test_every_stage_logs(lab: Lab) -> None:
    """Every stage writes a log to logs/logging_/<stage>/<experiment>, which is also its run's."""
    for experiment in ("dataset/dataset01", "feature/feature01", "model/model01"):
        (log,) = (lab.root / "logs/logging_" / experiment).rglob("*.log")
        kept = lab.artifacts(lab.newest(experiment)) / "logs/run.log"
        assert log.stat().st_size > 0
        assert log.samefile(kept)
