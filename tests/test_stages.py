"""The stages before a model: they take only sound files, and leave a whole result or none."""

import gzip
import hashlib
import json
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from src.dataset.dataset01.mnist import check, idx_files
from src.utils.errors import UserError

import numpy as np
import pytest
from conftest import DATASET, FEATURE, MODEL, QUICK, Lab, copy_experiment
from safetensors.numpy import load_file

IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
FEATURES = "feature/feature01"


def result(lab: Lab, stage: str = "data/dataset01") -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (lab.root / "_data" / stage).glob("*")}


def is_whole(folder: Path) -> bool:
    """Whether a folder holds exactly what its manifest says."""
    manifest = json.loads((folder / "manifest.json").read_text())
    files = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.iterdir()}
    del files["manifest.json"]
    return bool(files) and files == manifest["files"]


def folders(place: Path) -> list[str]:
    return [folder.name for folder in place.iterdir() if folder.is_dir()]


def idx(*shape: int) -> bytes:
    """An IDX file of zeros."""
    return (
        bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes() + bytes(int(np.prod(shape)))
    )


@pytest.fixture
def files(clone: Lab, tmp_path: Path) -> Path:
    """The four files of the sample, in a folder that the test may change."""
    return Path(shutil.copytree(clone.root / "_data/sample", tmp_path / "files"))


def test_local_files(lab: Lab, fresh: Lab, files: Path) -> None:
    """A local folder of IDX files is taken, gzipped or not, and gives the same images."""
    for file in files.glob("*images*.gz"):
        file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
        file.unlink()
    said = fresh.done(DATASET, "source=local", f"folder={files}")
    assert "5000 train and 1000 test images (local)" in said
    assert fresh.newest("dataset/dataset01").data.tags["data.source"] == "local"
    assert "SAMPLE" not in said + fresh.done(FEATURE)
    assert (
        result(fresh, FEATURES)["mnist.safetensors"] == result(lab, FEATURES)["mnist.safetensors"]
    )


def truncate(files: Path) -> None:
    (files / IMAGES).write_bytes((files / IMAGES).read_bytes()[:-1000])


def truncate_inside(files: Path) -> None:
    (files / IMAGES).write_bytes(
        gzip.compress(gzip.decompress((files / IMAGES).read_bytes())[:-784], 1)
    )


def flip_a_bit(files: Path) -> None:
    content = bytearray((files / IMAGES).read_bytes())
    content[len(content) // 2] ^= 1
    (files / IMAGES).write_bytes(content)


def reshape(files: Path) -> None:
    (files / IMAGES).write_bytes(gzip.compress(idx(5000, 32, 32), 1))


def drop_labels(files: Path) -> None:
    (files / LABELS).write_bytes(gzip.compress(idx(4999), 1))


def other_labels(files: Path) -> None:
    (files / LABELS).write_bytes(gzip.compress(idx(5000)[:-1] + b"\x0a", 1))


def remove(files: Path) -> None:
    (files / IMAGES).unlink()


def write_a_page(files: Path) -> None:
    (files / IMAGES).write_text("<html>404</html>")


def same_size_other_content(files: Path) -> None:
    (files / IMAGES).write_bytes(gzip.compress(idx(60_000, 28, 28), 1))
    (files / LABELS).write_bytes(gzip.compress(idx(60_000), 1))


DAMAGES: dict[Callable[[Path], None], tuple[str, str]] = {
    truncate: (IMAGES, "truncated or corrupted"),
    truncate_inside: (IMAGES, "truncated or corrupted"),
    flip_a_bit: (IMAGES, "truncated or corrupted"),
    reshape: (IMAGES, "shape (5000, 32, 32)"),
    drop_labels: (LABELS, "shape (4999,) for 5,000 images"),
    other_labels: (LABELS, "labels other than 0 to 9"),
    remove: (IMAGES, "has no train-images"),
    write_a_page: (IMAGES, "not an IDX file"),
    same_size_other_content: (IMAGES, "corrupted"),
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damage_is_seen(files: Path, damage: Callable[[Path], None]) -> None:
    """Damage is seen in the content of the files, whatever they are called, and named."""
    damage(files)
    with pytest.raises(UserError) as refused:
        check(idx_files(files), "train")
    assert [said for said in DAMAGES[damage] if said not in str(refused.value)] == []


def test_damaged_files(fresh: Lab, files: Path) -> None:
    """Damaged files end a stage with one line; the run has failed, and what was there stays as it was."""
    flip_a_bit(files)
    before = result(fresh)
    refused = fresh.run(DATASET, "source=local", f"folder={files}")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert f"{files / IMAGES} is truncated or corrupted" in refused.stderr
    assert result(fresh) == before
    assert folders(fresh.root / "_data/data") == ["dataset01"]
    assert fresh.newest("dataset/dataset01").info.status == "FAILED"


def test_no_result_from_damaged_files(fresh: Lab, files: Path) -> None:
    """Where there was no dataset, damaged files make none; sound files do, afterwards."""
    flip_a_bit(files)
    shutil.rmtree(fresh.root / "_data/data/dataset01")
    assert fresh.run(DATASET, "source=local", f"folder={files}").returncode == 2
    assert folders(fresh.root / "_data/data") == []
    fresh.done(DATASET, "source=sample")
    assert is_whole(fresh.root / "_data/data/dataset01")


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
    halve(fresh.root / "_data/sample")
    assert redone(DATASET, "source=sample", "force=true")
    assert redone(FEATURE, "val_fraction=0.2")


def halve(sample: Path) -> None:
    """Leave every second training image of a sample."""
    for name, size in {IMAGES: 784, LABELS: 1}.items():
        content = gzip.decompress((sample / name).read_bytes())
        start = 16 if size == 784 else 8
        kept = [content[at : at + size] for at in range(start, len(content), 2 * size)]
        header = content[:4] + len(kept).to_bytes(4, "big") + content[8:start]
        (sample / name).write_bytes(gzip.compress(header + b"".join(kept), 1))


def test_sigkill_while_writing(fresh: Lab) -> None:
    """Killed at any moment, a stage leaves a whole result; the next call recovers and tidies up."""
    place = fresh.root / "_data/data"
    draft = place / ".dataset01.draft"
    survived = 0
    for wait in (0.0, 0.003, 0.01, 0.02, 0.05):  # seconds after the first sign of writing
        stage = fresh.start(sys.executable, fresh.root / DATASET, "source=sample", "force=true")
        while not draft.exists() and stage.poll() is None:
            time.sleep(0.0005)
        time.sleep(wait)
        stage.send_signal(signal.SIGKILL)
        survived += stage.wait() == 0
        stage.communicate()
        assert is_whole(place / "dataset01")
    assert survived < 5
    fresh.done(DATASET, "source=sample", "force=true")
    assert is_whole(place / "dataset01")
    assert folders(place) == ["dataset01"]


def test_sigkill_between_old_and_new(fresh: Lab) -> None:
    """Killed between two renames, a stage leaves no result; the next call makes the same one, bit for bit."""
    place, before = (
        fresh.root / "_data/feature",
        result(fresh, FEATURES)["mnist.safetensors"],
    )
    (place / "feature01").rename(place / ".feature01.old")
    (place / ".feature01.draft").mkdir()
    (place / ".feature01.draft" / "mnist.safetensors").write_bytes(b"half")
    fresh.done(FEATURE)
    assert is_whole(place / "feature01")
    assert result(fresh, FEATURES)["mnist.safetensors"] == before
    assert folders(place) == ["feature01"]


def test_missing_feature(bare: Lab) -> None:
    """A model whose feature is missing builds it and its dataset first; offline, loudly from the sample."""
    copy_experiment(bare, "feature/feature01", "feature/feature02")
    offline = {
        "https_proxy": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
        "no_proxy": "",
    }
    said = bare.done(MODEL, *QUICK, "max_epochs=1", "feature=feature02", **offline)
    assert "feature/feature02 is missing: building it first" in said
    assert "dataset/dataset01 is missing: building it first" in said
    assert (
        "MNIST could not be downloaded (Error downloading train-images-idx3-ubyte.gz: Tried" in said
    )
    assert said.count("SAMPLE DATA") >= 2  # by the dataset, and by the model
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


def test_splits(lab: Lab, clone: Lab) -> None:
    """Train and val are disjoint, together all training images, and hold each class in proportion."""
    tensors = load_file(lab.root / "_data/feature/feature01/mnist.safetensors")
    packed = gzip.decompress((clone.root / "_data/sample" / IMAGES).read_bytes())
    published = [packed[start : start + 784] for start in range(16, len(packed), 784)]
    train, val = (
        [image.tobytes() for image in tensors[f"{split}_images"]] for split in ("train", "val")
    )
    assert (len(train), len(val), len(tensors["test_images"])) == (4500, 500, 1000)
    assert sorted(train + val) == sorted(published)
    assert not set(train) & set(val)
    assert np.bincount(tensors["val_labels"]).tolist() == [50] * 10
    assert np.bincount(tensors["train_labels"]).tolist() == [450] * 10


def test_statistics(lab: Lab) -> None:
    """Mean and deviation are of the training split's pixels, and of no others."""
    tensors = load_file(lab.root / "_data/feature/feature01/mnist.safetensors")
    train, both = (
        tensors["train_images"],
        np.concatenate((tensors["train_images"], tensors["val_images"])),
    )
    assert tensors["mean"] == pytest.approx(train.mean(), rel=1e-6)
    assert tensors["std"] == pytest.approx(train.std(), rel=1e-6)
    assert tensors["mean"] != pytest.approx(both.mean(), rel=1e-6)


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
