"""Trainings that are stopped, by whatever, and go on as if they had not been."""

import random
import signal
import sys
import threading
import time
from pathlib import Path
from unittest.mock import Mock

from src.utils.callbacks.resumable_loader import random_state
from src.utils.process import deferred_interrupts

import pytest
import torch
from conftest import MODEL, QUICK, Lab, copy_experiment, made_once
from mlflow.entities import Run
from torch import Tensor

LONG = (*QUICK, "max_epochs=30", "checkpoint_every=7")  # of 18 steps an epoch
STOPS = 2
SHORT = (*QUICK, "max_epochs=4", "checkpoint_every=6")  # … which divides an epoch
EXITS = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
STOPPING = """
class Stopping(pl.Callback):
    def stop(self, trainer, moment):
        import os

        if trainer.current_epoch == 2 and os.environ.get("STOP") == moment:
            os.kill(os.getpid(), int(os.environ["BY"]))

    def on_train_batch_start(self, trainer, module, batch, index):
        self.stop(trainer, f"train {index}")

    def on_validation_batch_start(self, trainer, module, batch, index, *_):
        self.stop(trainer, f"val {index}")

    def on_fit_start(self, trainer, module):
        save = trainer.save_checkpoint

        def and_stop(path, *arguments):
            save(path, *arguments)
            if trainer.is_last_batch and str(path).endswith("last.ckpt"):
                self.stop(trainer, "saved")

        trainer.save_checkpoint = and_stop


"""


DEFERRED = """
    import os, signal
    from src.utils.process import deferred_interrupts

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the jobs of a sweep
    signal.signal(signal.SIGTERM, lambda *_: print("terminated"))
    with deferred_interrupts():
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
        print("created")
"""
STOPPED_AT_ONCE = """
from mlflow.tracking import MlflowClient

create_run = MlflowClient.create_run


def create_and_stop(*arguments, **named):
    import os

    run = create_run(*arguments, **named)
    os.kill(os.getpid(), int(os.environ["BY"]))
    return run


MlflowClient.create_run = create_and_stop


"""


@pytest.fixture(scope="module")
def whole(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A laboratory whose newest run is the short training from its start to its end."""
    place = lab.copied(tmp_path_factory.mktemp("whole") / "lab")
    place.done(MODEL, *SHORT)
    return place


@pytest.fixture(scope="session")
def uninterrupted(shared: Path, lab: Lab) -> Lab:
    """A laboratory whose newest run is the long training from its start to its end. To be read only."""

    def make(place: Lab) -> None:
        lab.copied(place.root)
        place.done(MODEL, *LONG)

    return made_once(shared / "uninterrupted", make)


def weights(lab: Lab, run: Run) -> dict[str, Tensor]:
    last = lab.artifacts(run) / "checkpoints" / "last.ckpt"
    return dict(torch.load(last, weights_only=True)["state_dict"])


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def stopped(lab: Lab, by: signal.Signals, *arguments: str) -> tuple[int, str]:
    """Send a signal to a training that has finished its first epoch; its exit status, and what it said."""
    process = lab.start(sys.executable, lab.root / MODEL, *arguments)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch"):
            break
    time.sleep(random.uniform(0.05, 0.5))
    process.send_signal(by)
    out, errors = process.communicate(timeout=120)
    return process.returncode, out + errors


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_stopped_and_resumed(fresh: Lab, uninterrupted: Lab, by: signal.Signals) -> None:
    """Stopped twice at random steps, a training ends with the weights and metrics it would have had."""
    arguments = LONG
    for _ in range(STOPS):
        status, said = stopped(fresh, by, *arguments)
        assert status != 0, said
        arguments = (f"resume_run={fresh.newest().info.run_id}",)
    fresh.done(MODEL, *arguments)
    run, reference = fresh.newest(), uninterrupted.newest()
    assert len(fresh.runs("model/model01")) == len(uninterrupted.runs("model/model01"))
    assert run.info.status == "FINISHED"
    assert same(weights(fresh, run), weights(uninterrupted, reference))
    for metric in ("val_loss", "train_acc", "test_acc"):
        assert set(fresh.history(run, metric)) == set(uninterrupted.history(reference, metric))


def test_no_signal_is_lost(clone: Lab) -> None:
    """A signal that comes while a run is created arrives afterwards, also behind one that is ignored."""
    assert clone.python(DEFERRED)[0].split() == ["created", "terminated"]


def test_interrupts_of_threads() -> None:
    """A thread other than the main one can't defer interrupts, and leaves them as they are."""
    before, inside = signal.getsignal(signal.SIGTERM), []

    def defer() -> None:
        with deferred_interrupts() as handlers:
            inside.append(handlers[signal.SIGTERM])

    thread = threading.Thread(target=defer)
    thread.start()
    thread.join()
    assert inside == [before]
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_stopped_as_it_begins(fresh: Lab, by: signal.Signals) -> None:
    """A run that is stopped at the very moment at which MLflow has created it does not run for ever."""
    program = fresh.root / MODEL
    program.write_text(
        program.read_text().replace("@experiment\n", f"{STOPPED_AT_ONCE}@experiment\n")
    )
    assert fresh.run(MODEL, *SHORT, BY=str(int(by))).returncode == EXITS[by]
    assert fresh.newest().info.status == "KILLED"


@pytest.mark.parametrize(
    ("moment", "by"),
    [
        ("train 16", signal.SIGTERM),
        ("train 17", signal.SIGINT),
        ("val 0", signal.SIGKILL),
        ("val 1", signal.SIGTERM),
        ("saved", signal.SIGKILL),
    ],
)
def test_stopped_as_an_epoch_ends(fresh: Lab, whole: Lab, moment: str, by: signal.Signals) -> None:
    """Stopped at any moment of an epoch's end, a training has all of its metrics when it has gone on."""
    program = fresh.root / MODEL
    text = program.read_text().replace("(run, cfg)", "(run, cfg, callbacks=[Stopping()])")
    program.write_text(text.replace("@experiment\n", f"{STOPPING}@experiment\n"))
    assert fresh.run(MODEL, *SHORT, STOP=moment, BY=str(int(by))).returncode == EXITS[by]
    fresh.done(MODEL, f"resume_run={fresh.newest().info.run_id}")
    run, reference = fresh.newest(), whole.newest()
    assert run.info.status == "FINISHED"
    assert same(weights(fresh, run), weights(whole, reference))
    for metric in ("lr", "train_acc", "train_loss_step", "val_loss", "test_acc"):
        assert set(fresh.history(run, metric)) == set(whole.history(reference, metric)), metric


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_says_how_to_go_on(fresh: Lab, by: signal.Signals) -> None:
    """Ctrl-C and SIGTERM leave a run that is KILLED, resumable, and says how."""
    status, said = stopped(fresh, by, *LONG)
    run = fresh.newest()
    assert status == 128 + by
    assert f"resume_run={run.info.run_id[:8]}" in said
    assert "Traceback" not in said
    assert run.info.status == "KILLED"


def test_a_damaged_checkpoint(fresh: Lab, uninterrupted: Lab) -> None:
    """Where the last checkpoint is cut off, the one before is taken, by name, to the same end."""
    stopped(fresh, signal.SIGKILL, *LONG)
    run = fresh.newest()
    last = fresh.artifacts(run) / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-2000])
    said = fresh.done(MODEL, f"resume_run={run.info.run_id}")
    assert "last.ckpt is damaged" in said
    assert same(weights(fresh, fresh.newest()), weights(uninterrupted, uninterrupted.newest()))


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        ("learning_rate=0.5", "learning_rate=0.5 (it had 0.002)"),
        ("max_epochs=1", "max_epochs=1 (it had 2)"),
    ],
)
def test_another_setting_is_refused(fresh: Lab, typed: str, named: str) -> None:
    """A setting that the run did not have is refused by name, and the run stays as it is."""
    before = fresh.newest()
    refused = fresh.run(MODEL, f"resume_run={before.info.run_id}", typed)
    assert refused.returncode == 2
    assert named in refused.stderr
    assert "warm_start=" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert fresh.newest().data.to_dictionary() == before.data.to_dictionary()


def test_other_code_is_refused(fresh: Lab) -> None:
    """A run is not gone on with by other code than its own."""
    program = fresh.root / MODEL
    program.write_text(program.read_text() + "\n# an afterthought\n")
    run_id = fresh.newest().info.run_id
    fresh.client.set_terminated(run_id, "KILLED")
    refused = fresh.run(MODEL, f"resume_run={run_id}")
    assert refused.returncode == 2
    assert "src/model/model01 has changed since" in refused.stderr


def test_fork(fresh: Lab) -> None:
    """warm_start begins a new run with the old weights and the new settings; the old run stays."""
    old = fresh.newest()
    fresh.done(MODEL, f"warm_start={old.info.run_id}", "max_epochs=1", "learning_rate=1e-9")
    new = fresh.newest()
    assert new.info.run_id != old.info.run_id
    assert new.data.tags["warm_start_from"] == old.info.run_id
    assert new.data.params["max_epochs"] == new.data.params["trainer.max_epochs"] == "1"
    assert new.data.params["hidden"] == old.data.params["hidden"] == "32"
    assert new.data.metrics["test_acc"] == pytest.approx(old.data.metrics["test_acc"], abs=0.02)
    assert fresh.runs("model/model01")[1].data.to_dictionary() == old.data.to_dictionary()


def test_a_running_run_is_left_alone(fresh: Lab) -> None:
    """A run that is still running is not taken over."""
    process = fresh.start(sys.executable, fresh.root / MODEL, *LONG, "max_epochs=2000")
    assert process.stdout is not None
    next(line for line in process.stdout if line.startswith("epoch"))
    refused = fresh.run(MODEL, f"resume_run={fresh.newest().info.run_id}")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert refused.returncode == 2
    assert "is still running" in refused.stderr


def test_a_copy_resumes_its_own_runs(fresh: Lab) -> None:
    """A copied experiment does not find the runs of the one it was copied from."""
    copy_experiment(fresh, "model/model01", "model/model02")
    run_id = fresh.newest().info.run_id
    refused = fresh.run(MODEL.replace("model01", "model02"), f"resume_run={run_id}")
    assert refused.returncode == 2
    assert "model/model02" in refused.stderr


def test_random_state_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training on the CPU does not begin to use the GPUs of the machine when its state is saved."""
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", Mock(side_effect=AssertionError))
    assert random_state()["cuda"] == []
