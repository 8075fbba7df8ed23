"""Runs of earlier versions of this repository: what they wrote under other names is still read."""

import json
from pathlib import Path

import pytest
from conftest import MODEL, QUICK, Lab
from omegaconf import OmegaConf

SOURCE = {  # what the source of such a run said
    "from src.utils.metrics import LossAndAccuracy": "from src.utils.score import Score",
    "LossAndAccuracy()": "Score()",
    ".update(": ".add(",
    ".compute(": ".result(",
    "src.utils.figures": "src.utils.pictures",
}
TESTED = """
    import torch
    from src.utils.tracking import load_model

    model = load_model("latest")
    images, labels = torch.zeros(4, 28, 28, dtype=torch.uint8), torch.zeros(4, dtype=torch.long)
    model.shared_step("test", (images, labels))
    print(sorted(model.metrics["test"].result("test")))
"""


def with_earlier_settings(folder: Path) -> None:
    """Write the settings of a run as a version did that had no warm_start."""
    for name in ("config.yaml", "composed.yaml"):
        config = OmegaConf.load(folder / "config" / name)
        for new in ("warm_start", "resume_study", "stale", "monitor", "mode", "reuse"):
            del config[new]
        OmegaConf.save(config | {"resume": None, "fork": False}, folder / "config" / name)


@pytest.fixture
def stopped(fresh: Lab) -> Lab:
    """A copy of the laboratory whose newest run was stopped, by an earlier version."""
    fresh.done(MODEL, *QUICK)
    run = fresh.newest()
    fresh.client.set_terminated(run.info.run_id, "KILLED")
    with_earlier_settings(fresh.artifacts(run))
    return fresh


def test_saved_source(fresh: Lab) -> None:
    """A model whose saved source imports earlier names of src/utils loads, and its methods work."""
    run = fresh.newest()
    file = fresh.artifacts(run) / "source" / Path(MODEL).name
    text = file.read_text()
    for new, old in SOURCE.items():
        assert new in text
        text = text.replace(new, old)
    file.write_text(text)
    out, _ = fresh.python(TESTED)
    assert out.strip() == "['test_acc', 'test_loss']"


def test_resumed(stopped: Lab) -> None:
    """A run whose settings have earlier names is resumed."""
    run_id = stopped.newest().info.run_id
    stopped.done(MODEL, f"resume_run={run_id}")
    assert stopped.newest().info.run_id == run_id
    assert stopped.newest().info.status == "FINISHED"


def test_warm_start(stopped: Lab) -> None:
    """A new run begins with the weights of a run whose settings have earlier names."""
    run_id = stopped.newest().info.run_id
    stopped.done(MODEL, f"warm_start={run_id}", "max_epochs=1")
    new = stopped.newest()
    assert new.data.tags["warm_start_from"] == run_id
    assert new.data.params["warm_start"] == run_id
    assert new.data.params["hidden"] == "32"


def test_shown(fresh: Lab) -> None:
    """`lab show` finds what a run recorded of its machine under an earlier file name, and its relations."""
    run = fresh.newest()
    folder = fresh.artifacts(run) / "provenance"
    cores = json.loads((folder / "metadata.json").read_text())["hardware"]["cores"]
    (folder / "metadata.json").rename(folder / "facts.json")
    fresh.client.set_tag(run.info.run_id, "forked_from", "0123456789abcdef")
    shown = fresh.question("-m", "src.utils.lab.cli", "show", run.info.run_id).text
    assert f"{cores} cores" in shown
    assert "warm start from 01234567" in shown


@pytest.mark.parametrize("typed", [("resume_run=latest", "fork=true"), ("-m", "resume=latest")])
def test_typed(clone: Lab, typed: tuple[str, ...]) -> None:
    """A setting that is typed by its earlier name is answered with the present one."""
    refused = clone.run(MODEL, *typed)
    assert refused.returncode == 2
    assert "is not a setting any more: type" in refused.stderr
    assert refused.stderr.count("\n") == 1
