"""`load_model`: a ready model from nothing but its run."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from conftest import MODEL, QUICK, Lab, copy_experiment

REFERENCES = """
    import logging, torch
    from src.utils.tracking import load_model

    logging.basicConfig(format="%(message)s")
    images = torch.arange(2 * 784, dtype=torch.uint8).reshape(2, 28, 28)
    for arguments in {arguments}:
        model = load_model(**arguments)
        assert not model.training and model.config.note
        with torch.inference_mode():
            print(model(images).flatten().tolist())
"""
ERRORS = """
    from src.utils.errors import UserError
    from src.utils.tracking import load_model

    for arguments in {arguments}:
        try:
            print(load_model(**arguments))
        except UserError as error:
            print("refused:", error)
"""


def answers(lab: Lab, *arguments: dict[str, str]) -> tuple[list[str], str]:
    """What models answer to the same images, each model by its arguments; and what was warned of."""
    out, err = lab.python(REFERENCES.format(arguments=list(arguments)))
    return out.splitlines(), err


def refusals(lab: Lab, *arguments: dict[str, str]) -> list[str]:
    out, err = lab.python(ERRORS.format(arguments=list(arguments)))
    assert err == ""
    return out.splitlines()


@pytest.fixture(scope="module")
def answer(lab: Lab) -> str:
    """What the quick model answers, by whatever name it is called."""
    run = lab.newest().info
    said, warned = answers(
        lab,
        {"run_id": run.run_id},
        {"run_id": run.run_id[:6]},
        {"run_id": run.run_name},
        {"experiment_name": "model/model01"},
        {"experiment_name": "model01", "run_id": run.run_id},
    )
    assert len(said) == 5
    assert len(set(said)) == 1
    assert warned == ""
    return said[0]


def test_references(answer: str) -> None:
    """A run id, the start of one, its name or its experiment all give the same model, and no warnings."""
    logits = json.loads(answer)
    assert len(logits) == 20
    assert len(set(logits)) == 20


@pytest.mark.parametrize("state", ["is no longer there", "has changed since"])
def test_source_is_kept(fresh: Lab, answer: str, state: str) -> None:
    """Deleting or editing an experiment does not change what loads; it is said which source was used."""
    program = fresh.root / MODEL
    if state == "has changed since":
        program.write_text(program.read_text().replace("nn.ReLU()", "nn.Tanh()"))
    else:
        shutil.rmtree(program.parent)
        shutil.rmtree(fresh.root / "config/model/model01")
    said, warned = answers(fresh, {"run_id": fresh.newest().info.run_id})
    assert said == [answer]
    assert warned == f"src/model/model01 {state}: using the source kept with the run\n"


def test_siblings(fresh: Lab) -> None:
    """An experiment of two files loads with its own sibling, though another run has one of the same name."""
    for name, layer in {"model02": "Tanh", "model03": "Sigmoid"}.items():
        copy_experiment(fresh, "model/model01", f"model/{name}")
        program = fresh.root / MODEL.replace("model01", name)
        source = program.read_text().replace("nn.ReLU()", "activation()")
        program.write_text(
            source.replace("from safetensors", "from layers import activation\nfrom safetensors", 1)
        )
        (program.parent / "layers.py").write_text(f"from torch.nn import {layer} as activation\n")
        fresh.done(str(program.relative_to(fresh.root)), *QUICK, "max_epochs=1")
        (program.parent / "layers.py").unlink()
    said, _ = fresh.python("""
        from src.utils.tracking import load_model
        for name in ("model02", "model03", "model02"):
            print([type(layer).__name__ for layer in load_model(experiment_name=name).network][2])
    """)
    assert said.splitlines() == ["Tanh", "Sigmoid", "Tanh"]


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def test_malicious_checkpoint(fresh: Lab, tmp_path: Path) -> None:
    """A checkpoint that carries a pickled payload is refused in one line, and the payload does not run."""
    run, marker = fresh.newest(), tmp_path / "marker"
    best, last = (fresh.artifacts(run) / f"checkpoints/{name}.ckpt" for name in ("best", "last"))
    sound = torch.load(best, weights_only=True)
    torch.save(sound | {"hyper_parameters": Payload(marker)}, best)
    last.write_bytes(pickle.dumps(Payload(marker), protocol=2))
    said = refusals(
        fresh, *({"run_id": run.info.run_id, "checkpoint": file.stem} for file in (best, last))
    )
    assert not marker.exists()
    reason = "holds more than weights: refused, nothing was executed"
    assert said == [f"refused: {file} {reason}" for file in (best, last)]
    pickle.loads(last.read_bytes())
    assert marker.exists()  # so would they have done


def test_errors(fresh: Lab) -> None:
    """What can't be loaded is refused in one line that names what is near."""
    run, client = fresh.newest().info, fresh.client

    def new_run(name: str) -> str:
        return str(client.create_run(run.experiment_id, run_name=name).info.run_id)

    one, other = new_run("twin"), new_run("twin")
    ids = [run.run_id, *(new_run(f"run {number}") for number in range(16))]
    start = next(digit for digit in "0123456789abcdef" if sum(i[0] == digit for i in ids) > 1)
    mistyped = run.run_id[:-1] + ("1" if run.run_id.endswith("0") else "0")
    expected: list[tuple[dict[str, str], list[str]]] = [
        ({"run_id": mistyped}, ["there is no run", f"{run.run_id[:8]} ({run.run_name})"]),
        ({"run_id": run.run_name[:-1] + "x"}, ["there is no run", run.run_name]),
        ({"run_id": "twin"}, ["several", one[:8], other[:8]]),
        ({"run_id": start}, ["several", "give more"]),
        ({"run_id": one}, ["checkpoints"]),
        ({"run_id": run.run_id, "checkpoint": "worst"}, ["worst.ckpt", "best.ckpt, last.ckpt"]),
        ({"experiment_name": "model02"}, ["there is no experiment", "model01"]),
        ({"experiment_name": "dataset01"}, ["checkpoint"]),
        ({"run_id": "'; DROP TABLE runs; --"}, ["there is no run"]),
        ({"run_id": ""}, ["there is no run"]),
        ({}, ["needs a run_id"]),
    ]
    said = refusals(fresh, *(arguments for arguments, _ in expected))
    assert [line for line in said if not line.startswith("refused: ")] == []
    for line, (_, words) in zip(said, expected, strict=True):
        assert [word for word in words if word not in line] == [], line
