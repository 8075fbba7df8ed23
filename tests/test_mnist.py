"""The worked example: MNIST from its files to a scored model."""

import gzip
import resource
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from src.utils.errors import UserError

import numpy as np
import pytest
from conftest import QUICK, ROOT, Lab, copy_experiment
from mnist import DATASET, FEATURE, MODEL, a_clone, a_fresh_one, a_trained_one, needed  # noqa: F401  fixtures
from safetensors.numpy import load_file
from test_stages import is_whole, result

IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
pytestmark = needed


def idx(*shape: int) -> bytes:
    """An IDX file of zeros."""
    return (
        bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes() + bytes(int(np.prod(shape)))
    )


def folders(place: Path) -> list[str]:
    return [folder.name for folder in place.iterdir() if folder.is_dir()]


@pytest.fixture
def files(mnist_clone: Lab, tmp_path: Path) -> Path:
    """The four files of the sample, in a folder that the test may change."""
    return Path(shutil.copytree(mnist_clone.root / "_data/sample", tmp_path / "files"))


def test_local_files(mnist: Lab, fresh_mnist: Lab, files: Path) -> None:
    """A local folder of IDX files is taken, gzipped or not, and gives the same images."""
    for file in files.glob("*images*.gz"):
        file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
        file.unlink()
    said = fresh_mnist.done(DATASET, "source=local", f"folder={files}")
    assert "5000 train and 1000 test images (local)" in said
    assert fresh_mnist.newest("dataset/dataset01").data.tags["data.source"] == "local"
    assert "SAMPLE" not in said + fresh_mnist.done(FEATURE)
    assert (
        result(fresh_mnist, "feature/feature01")["mnist.safetensors"]
        == result(mnist, "feature/feature01")["mnist.safetensors"]
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
    example = import_module("src.dataset.dataset01.mnist")
    with pytest.raises(UserError) as refused:
        example.check_split(example.idx_files(files), "train")
    assert [said for said in DAMAGES[damage] if said not in str(refused.value)] == []


def test_damaged_files(fresh_mnist: Lab, files: Path) -> None:
    """Damaged files end a stage with one line; the run has failed, and what was there stays as it was."""
    flip_a_bit(files)
    before = result(fresh_mnist)
    refused = fresh_mnist.run(DATASET, "source=local", f"folder={files}")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert f"{files / IMAGES} is truncated or corrupted" in refused.stderr
    assert result(fresh_mnist) == before
    assert folders(fresh_mnist.root / "_data/data") == ["dataset01"]
    assert fresh_mnist.newest("dataset/dataset01").info.status == "FAILED"


def test_no_result_from_damaged_files(fresh_mnist: Lab, files: Path) -> None:
    """Where there was no dataset, damaged files make none; sound files do, afterwards."""
    flip_a_bit(files)
    (fresh_mnist.root / "_data/data/dataset01").unlink()
    assert fresh_mnist.run(DATASET, "source=local", f"folder={files}").returncode == 2
    assert folders(fresh_mnist.root / "_data/data") == []
    fresh_mnist.done(DATASET, "source=sample")
    assert is_whole(fresh_mnist.root / "_data/data/dataset01")


def test_offline(mnist_clone: Lab, tmp_path: Path) -> None:
    """A model whose feature is missing builds it and its dataset first; offline, loudly from the sample."""
    bare = mnist_clone.copied(tmp_path / "bare")
    copy_experiment(bare, "feature/feature01", "feature/feature92")
    offline = {
        "https_proxy": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
        "no_proxy": "",
    }
    said = bare.done(MODEL, *QUICK, "max_epochs=1", "feature=feature92", **offline)
    assert "feature/feature92 is missing: building it first" in said
    assert "dataset/dataset01 is missing: building it first" in said
    assert (
        "MNIST could not be downloaded (Error downloading train-images-idx3-ubyte.gz: Tried" in said
    )
    assert said.count("SAMPLE DATA") >= 2  # by the dataset, and by the model
    assert bare.newest().data.tags["data.source"] == "sample"


def test_splits(mnist: Lab, mnist_clone: Lab) -> None:
    """Train and val are disjoint, together all training images, and hold each class in proportion."""
    tensors = load_file(mnist.root / "_data/feature/feature01/mnist.safetensors")
    packed = gzip.decompress((mnist_clone.root / "_data/sample" / IMAGES).read_bytes())
    published = [packed[start : start + 784] for start in range(16, len(packed), 784)]
    train, val = (
        [image.tobytes() for image in tensors[f"{split}_images"]] for split in ("train", "val")
    )
    assert (len(train), len(val), len(tensors["test_images"])) == (4500, 500, 1000)
    assert sorted(train + val) == sorted(published)
    assert not set(train) & set(val)
    assert np.bincount(tensors["val_labels"]).tolist() == [50] * 10
    assert np.bincount(tensors["train_labels"]).tolist() == [450] * 10


def test_statistics(mnist: Lab) -> None:
    """Mean and deviation are of the training split's pixels, and of no others."""
    tensors = load_file(mnist.root / "_data/feature/feature01/mnist.safetensors")
    train, both = (
        tensors["train_images"],
        np.concatenate((tensors["train_images"], tensors["val_images"])),
    )
    assert tensors["mean"] == pytest.approx(train.mean(), rel=1e-6)
    assert tensors["std"] == pytest.approx(train.std(), rel=1e-6)
    assert tensors["mean"] != pytest.approx(both.mean(), rel=1e-6)


def test_accuracy(fresh_mnist: Lab) -> None:
    """The CNN's defaults reach 96 % on the sample's test images, with a minute of processor time at most."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    said = fresh_mnist.done(MODEL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 60
    run = fresh_mnist.newest()
    assert run.data.metrics["test_acc"] >= 0.96
    assert f"{run.data.metrics['test_acc']:.4f}" in said
    assert run.info.run_id in said


@pytest.mark.parametrize("path", ["with", "without"])
def test_pythonpath_is_not_needed(tmp_path: Path, path: str) -> None:
    """The installed repository runs by path from any directory, with PYTHONPATH or without."""
    environment = {"with": {"PYTHONPATH": str(ROOT)}, "without": {"PYTHONPATH": ""}}[path]
    here = Lab(ROOT)
    shown = here.run(MODEL, "--cfg", "job", "--resolve", cwd=tmp_path, **environment)
    assert "max_epochs: 5\n" in shown.stdout, shown.stderr
    refused = here.run(DATASET, "source=moon", cwd=tmp_path, **environment)
    assert "source=moon is refused" in refused.stderr
    assert not list(tmp_path.iterdir())
