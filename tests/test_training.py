"""A training: what it reaches, what it leaves behind, and how it ends."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from conftest import DATASET, LONG_NOTE, MODEL, QUICK, Lab
from mlflow.entities import Run
from omegaconf import OmegaConf
from torch import Tensor

EPOCHS, STEPS = 2, 18  # of the quick training; steps an epoch
AGAIN = ("source=sample", "force=true")
PER_EPOCH = {
    "train_loss",
    "train_acc",
    "val_loss",
    "val_acc",
    "epoch_seconds",
    "samples_per_second",
}


def checkpoint(lab: Lab, run: Run, name: str = "best") -> dict[str, dict[str, Tensor]]:
    return torch.load(lab.artifacts(run) / "checkpoints" / f"{name}.ckpt", weights_only=True)


def weights(lab: Lab, run: Run) -> dict[str, list[float]]:
    return {name: tensor.tolist() for name, tensor in checkpoint(lab, run)["state_dict"].items()}


def test_seed(lab: Lab, fresh: Lab) -> None:
    """The same seed gives the same weights, bit for bit; another seed gives others."""
    fresh.done(MODEL, *QUICK)
    assert weights(fresh, fresh.newest()) == weights(lab, lab.newest())
    assert fresh.history(fresh.newest(), "val_loss") == lab.history(lab.newest(), "val_loss")
    fresh.done(MODEL, *QUICK, "seed=1")
    assert weights(fresh, fresh.newest()) != weights(lab, lab.newest())


def test_checkpoints_are_stored_once(lab: Lab) -> None:
    """Best and last checkpoint exist once on disk, and nowhere else in any form."""
    kept = lab.artifacts(lab.newest()) / "checkpoints"
    assert sorted(file.name for file in kept.iterdir()) == ["best.ckpt", "last.ckpt"]
    sizes = {file.stat().st_size for file in kept.iterdir()}
    digests = {hashlib.sha256(file.read_bytes()).hexdigest() for file in kept.iterdir()}
    alike = [lab.root / file for file in lab.files() if (lab.root / file).stat().st_size in sizes]
    same = [file for file in alike if hashlib.sha256(file.read_bytes()).hexdigest() in digests]
    assert sorted(same) == sorted(kept.iterdir())
    assert sorted(lab.root.rglob("*.ckpt")) == sorted(kept.iterdir())


def test_metrics(lab: Lab) -> None:
    """Loss, accuracy, time and rate are there for each epoch, the test's once, and the machine's."""
    run = lab.newest()
    assert {name: len(lab.history(run, name)) for name in PER_EPOCH} == dict.fromkeys(
        PER_EPOCH, EPOCHS
    )
    assert {name for name in run.data.metrics if name.startswith("test_")} == {
        "test_loss",
        "test_acc",
    }
    assert run.data.tags["monitor"] == "val_acc max"
    assert 0.2 < run.data.metrics["test_acc"] <= 1
    assert run.data.metrics["samples_per_second"] == pytest.approx(
        4500 / run.data.metrics["epoch_seconds"], rel=0.01
    )
    assert run.data.metrics["system/cpu_utilization_percentage"] > 0
    assert run.data.metrics["system/system_memory_usage_megabytes"] > 0


def test_every_step(lab: Lab) -> None:
    """With trainer.log_every_n_steps=1 the loss and the learning rate of every single step are there."""
    run = lab.newest()
    losses, rates = lab.history(run, "train_loss_step"), lab.history(run, "lr")
    assert [step for step, _ in losses] == list(range(1, EPOCHS * STEPS + 1))
    assert len({value for _, value in losses}) > EPOCHS * STEPS // 2
    assert len(rates) == EPOCHS * STEPS
    assert max(value for _, value in rates) == pytest.approx(
        0.002, rel=0.01
    )  # a cycle: up to the peak


def test_pictures(lab: Lab) -> None:
    """The confusion matrix and the most confident errors are pictures that a browser can show."""
    for name in ("confusion_matrix", "most_confident_errors"):
        content = (lab.artifacts(lab.newest()) / f"figures/{name}.png").read_bytes()
        assert content.startswith(b"\x89PNG")
        assert content.endswith(b"IEND\xaeB`\x82")
        assert int.from_bytes(content[16:20], "big") > 400  # pixels wide


def test_parameters(lab: Lab) -> None:
    """The parameters are the resolved settings, flattened, each in full length."""
    run = lab.newest()
    kept = OmegaConf.load(lab.artifacts(run) / "config/config.yaml")
    trainer = {f"trainer.{name}": value for name, value in kept.pop("trainer").items()}
    assert run.data.params == {name: str(value) for name, value in {**kept, **trainer}.items()}
    assert run.data.params["note"] == LONG_NOTE
    assert run.data.params["trainer.max_epochs"] == str(EPOCHS)
    assert run.data.tags["tag.quick"] == "true"


def test_what_a_run_keeps(lab: Lab) -> None:
    """A run holds its settings, its code, its log, and what is to be known of machine and packages."""
    run, kept = lab.newest(), lab.artifacts(lab.newest())
    overrides = OmegaConf.load(kept / "config/overrides.yaml")
    assert list(overrides)[: len(QUICK)] == list(QUICK)
    assert (kept / "config/hydra.yaml").stat().st_size > 0
    assert (kept / "source" / Path(MODEL).name).read_bytes() == (lab.root / MODEL).read_bytes()
    assert "epoch 2/2" in (kept / "logs/run.log").read_text()
    metadata = OmegaConf.load(kept / "provenance/metadata.json")
    assert f"{Path(MODEL).name} {QUICK[0]}" in metadata.command
    assert metadata.hardware.cores > 0
    assert metadata.hardware.processor
    assert (
        metadata.git.commit
        == run.data.tags["mlflow.source.git.commit"]
        == lab.git("rev-parse", "HEAD").strip()
    )
    assert run.data.tags["mlflow.source.git.branch"] == "main"
    assert (
        f"torch=={torch.__version__.split('+')[0]}"
        in (kept / "provenance/packages.txt").read_text()
    )
    assert run.info.status == "FINISHED"


def test_patch(fresh: Lab, tmp_path: Path) -> None:
    """Commit and patch give the working tree back, whatever git is set to and whoever owns the files."""
    (fresh.root / "README.md").write_text("changed\n")
    (fresh.root / "poetry.lock").unlink()
    (fresh.root / "実験 メモ*.txt").write_text("untracked\n")
    (fresh.root / "src/raw.bin").write_bytes(bytes(range(256)) * 100)
    (fresh.root / "nowhere").symlink_to("missing")
    fresh.git("add", "src/raw.bin")
    hostile = "[diff]\nnoprefix = true\n[color]\nui = always\n[core]\nquotepath = off\n"
    (tmp_path / "gitconfig").write_text(hostile)
    before, objects = (
        fresh.git("status", "--porcelain"),
        sorted((fresh.root / ".git/objects").rglob("*")),
    )
    with owned_by_another(fresh.root):
        fresh.done(DATASET, *AGAIN, GIT_CONFIG_GLOBAL=str(tmp_path / "gitconfig"))
    assert fresh.git("status", "--porcelain") == before
    assert sorted((fresh.root / ".git/objects").rglob("*")) == objects

    run = fresh.newest("dataset/dataset01")
    assert run.data.tags["git.dirty"] == "true"
    rebuilt = Lab(tmp_path / "rebuilt")
    fresh.git(
        "worktree", "add", "--detach", rebuilt.root, run.data.tags["mlflow.source.git.commit"]
    )
    rebuilt.git("apply", fresh.artifacts(run) / "provenance/changes.patch")
    for tree in (fresh, rebuilt):
        tree.git("add", "--all")
    assert rebuilt.git("write-tree") == fresh.git("write-tree")


@contextmanager
def owned_by_another(folder: Path) -> Iterator[None]:
    """As in many containers; only root can do that."""
    if os.getuid() != 0:
        yield
        return
    for place in (folder, folder / ".git"):
        os.chown(place, 1234, -1)
    yield
    for place in (folder, folder / ".git"):
        os.chown(place, 0, -1)


def test_patch_stays_small(fresh: Lab) -> None:
    """Untracked files that are large, alone or together, and repositories inside are named, not copied."""
    (fresh.root / "large.bin").write_bytes(os.urandom(6 * 2**20))
    for number in range(8):
        (fresh.root / f"part{number}.bin").write_bytes(os.urandom(4 * 2**20))
    (fresh.root / "small.txt").write_text("kept\n")
    subprocess.run(["git", "init", "--quiet", fresh.root / "inside"], check=True)
    said = fresh.done(DATASET, *AGAIN)
    kept = fresh.artifacts(fresh.newest("dataset/dataset01")) / "provenance"
    assert 4 * 2**20 < (kept / "changes.patch").stat().st_size < 30 * 2**20
    assert b"small.txt" in (kept / "changes.patch").read_bytes()
    left_out = OmegaConf.load(kept / "metadata.json").git.left_out
    assert {"large.bin", "inside/", "part7.bin"} <= set(left_out)
    assert "part0.bin" not in left_out
    assert f"too large to be kept with the run: {left_out[0]}" in said


def interrupted(lab: Lab, *overrides: str) -> tuple[int, str]:
    """Exit code and output of a training that Ctrl-C ended in its third epoch."""
    training = lab.start(sys.executable, lab.root / MODEL, *QUICK, "max_epochs=5000", *overrides)
    assert training.stdout is not None
    said = []
    for line in training.stdout:
        said.append(line)
        if line.startswith("epoch 2/"):
            os.killpg(training.pid, signal.SIGINT)
    _, errors = training.communicate(timeout=60)
    return training.returncode, "".join(said) + errors


def test_ctrl_c(fresh: Lab) -> None:
    """Ctrl-C ends a run quietly as KILLED; its last checkpoint and every metric so far are kept."""
    code, said = interrupted(fresh)
    assert code == 130
    assert "Traceback" not in said
    run = fresh.newest()
    assert run.info.status == "KILLED"
    step = checkpoint(fresh, run, "last")["global_step"]
    assert step >= 2 * STEPS
    steps = [at for at, _ in fresh.history(run, "train_loss_step")]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) in (step, step + 1, step - 1)
    assert len(fresh.history(run, "val_acc")) >= 2


def test_exception(fresh: Lab) -> None:
    """An exception marks the run FAILED and keeps its traceback; the terminal shows the part that matters."""
    program = fresh.root / MODEL
    fault = "    raise RuntimeError('the sky fell')\n    trainer.fit("
    program.write_text(program.read_text().replace("    trainer.fit(", fault, 1))
    failed = fresh.run(MODEL, *QUICK)
    assert failed.returncode == 1
    assert "hydra/_internal" not in failed.stderr
    run = fresh.newest()
    assert run.info.status == "FAILED"
    kept = fresh.artifacts(run) / "logs/traceback.txt"
    assert failed.stderr.endswith(
        f"RuntimeError: the sky fell\nthe whole traceback: {kept.relative_to(fresh.root)}\n"
    )
    assert "RuntimeError: the sky fell" in kept.read_text()


def test_nan(fresh: Lab) -> None:
    """A loss that is no number ends the training with one line, however seldom steps are logged."""
    failed = fresh.run(MODEL, *QUICK, "learning_rate=1e30", "trainer.log_every_n_steps=50")
    assert failed.returncode == 2
    assert "the loss is nan at step" in failed.stderr.splitlines()[-1]
    assert failed.stderr.count("\n") == 1
    assert fresh.newest().info.status == "FAILED"


def test_compile(fresh: Lab, tmp_path: Path) -> None:
    """compile=true compiles the model, whose checkpoint loads as any other."""
    if not shutil.which(os.environ.get("CXX", "g++")):
        pytest.skip("torch.compile needs a C++ compiler")
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}
    fresh.done(MODEL, *QUICK, "max_epochs=1", "compile=true", "batch_size=250", **cache)
    assert list((tmp_path / "inductor").rglob("*.so"))
    assert (
        weights(fresh, fresh.newest()).keys()
        == weights(fresh, fresh.runs("model/model01")[1]).keys()
    )


def test_ddp(fresh: Lab) -> None:
    """Two processes train into one run, each on half of the samples, and score all of them."""
    before = len(fresh.runs("model/model01"))
    two = ("trainer.strategy=ddp", "trainer.devices=2", "batch_size=125")
    said = fresh.done(MODEL, *QUICK, *two)
    run = fresh.newest()
    assert len(fresh.runs("model/model01")) == before + 1
    assert run.info.status == "FINISHED"
    assert len(fresh.history(run, "train_loss_step")) == EPOCHS * STEPS
    assert len(fresh.history(run, "val_acc")) == EPOCHS
    assert said.count(run.info.run_id) == 1
    assert run.data.metrics["test_acc"] > 0.2
    assert (fresh.artifacts(run) / "figures/confusion_matrix.png").is_file()
    assert sorted(file.name for file in (fresh.artifacts(run) / "checkpoints").iterdir()) == [
        "best.ckpt",
        "last.ckpt",
    ]
