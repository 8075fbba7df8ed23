"""What an editor knows of an experiment: the settings in config.yaml, and `cfg.` and `run.` in Python."""

import json
from pathlib import Path
from typing import Any

from src.utils.config.comments import class_comments, yaml_comments
from src.utils.config.json_schema import MODELINE, SCHEMA
from src.utils.config.type_words import type_in_words

import jedi
import pytest
import yaml
from conftest import DATASET, FEATURE, MODEL, PROJECT, ROOT, Lab, made_once
from jsonschema import Draft202012Validator
from laboratory import said, typed

CONFIG = "config/model/model01/config.yaml"
MINIMAL = '''
"""The smallest program.

    poetry run python src/model/model01/program.py
"""

from src.utils.experiment import experiment
from src.utils.run import Run
from src.utils.settings import ModelSettings


class Config(ModelSettings):
    width: int


@experiment
def main(cfg: Config, run: Run) -> float:
    {}
    return 0.0
'''


@pytest.fixture(scope="session", name="described")
def a_described_one(shared: Path, clone: Lab) -> Lab:
    """A laboratory with a schema for each experiment. To be read only."""

    def make(lab: Lab) -> None:
        clone.copied(lab.root)
        assert said(lab, "schema").startswith("3 schemas")

    return made_once(shared / "described", make)


def problems(lab: Lab, text: str, config: str = CONFIG) -> list[str]:
    """What an editor marks in a config.yaml with this text."""
    schema = json.loads((lab.root / config).with_name(SCHEMA).read_text())
    Draft202012Validator.check_schema(schema)
    values = yaml.safe_load(text)
    return [error.message for error in Draft202012Validator(schema).iter_errors(values)]


def with_settings(lab: Lab, **settings: Any) -> str:
    """The model's config.yaml with other values."""
    values = yaml.safe_load((lab.root / CONFIG).read_text())
    return yaml.safe_dump(values | settings)


@pytest.mark.parametrize("stage", ["dataset/dataset01", "feature/feature01", "model/model01"])
def test_no_false_marks(described: Lab, stage: str) -> None:
    """The settings of each experiment are right, and its config.yaml names the schema beside it."""
    file = described.root / "config" / stage / "config.yaml"
    assert file.read_text().startswith(f"{MODELINE}\n")
    assert problems(described, file.read_text(), f"config/{stage}/config.yaml") == []


def test_all_name_their_schema() -> None:
    """Each config.yaml of this repository, and of the tests, begins with the line that names its schema."""
    files = [*(ROOT / "config").glob("*/*/config.yaml"), *PROJECT.glob("config/*/*/config.yaml")]
    assert len(files) > 3
    assert [file for file in files if not file.read_text().startswith(f"{MODELINE}\n")] == []


@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rat": 0.1},
        {"max_epochs": "abc"},
        {"max_epochs": -2},
        {"hidden": 0},
        {"hidden": None},
        {"dropout": 1.5},
        {"network": "rnn"},
        {"mode": "maximum"},
        {"tags": "one"},
        {"trainer": {"precison": "16-mixed"}},
        {"trainer": {"limit_train_batches": "all"}},
        {"trainer": {"logger": False}},
        {"hydra": {"sweeper": {"n_trials": 0}}},
        {"defaults": None},
    ],
    ids=str,
)
def test_mistakes_are_marked(described: Lab, settings: dict[str, Any]) -> None:
    """An unknown setting, a value of another type and one out of its range are marked."""
    assert len(problems(described, with_settings(described, **settings))) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden": "${oc.env:HIDDEN}", "network": "???", "trainer": "${other}"},
        {
            "max_epochs": "1_000",
            "learning_rate": "1e-3",
            "compile": "yes",
        },  # as newer YAML reads them
        {"fold": None, "checkpoint_every": None, "monitor": None, "note": 5},
        {"trainer": {"max_time": "00:01:00:00", "strategy": {"x": 1}, "devices": [0, 1]}},
        {"trainer": {"limit_train_batches": 0.5, "callbacks": None, "fast_dev_run": True}},
        {"defaults": ["/training", {"override /hydra/sweeper/sampler": "gp"}, "_self_"]},
        {"hydra": {"sweeper": {"params": {"hidden": "range(8,64)"}}, "verbose": True}},
    ],
    ids=str,
)
def test_what_hydra_allows_is_not_marked(described: Lab, settings: dict[str, Any]) -> None:
    """Interpolations, missing values, nulls, and whatever Lightning and Hydra allow are not marked."""
    assert problems(described, with_settings(described, **settings)) == []


def test_descriptions(described: Lab) -> None:
    """A setting has its comment as description, the shared ones those of config/utils, with the default."""
    settings = json.loads((described.root / CONFIG).with_name(SCHEMA).read_text())["properties"]
    assert settings["hidden"]["description"] == "units of each dense layer"
    assert settings["hidden"]["title"] == "integer of at least 1"
    assert "passes over the training data" in settings["max_epochs"]["description"]
    assert settings["max_epochs"]["default"] == 5
    arguments = settings["trainer"]["anyOf"][0]["properties"]
    assert "gradients over k batches" in arguments["accumulate_grad_batches"]["description"]
    assert "bf16-mixed" in arguments["precision"]["title"]


def with_option(lab: Lab, program: str, option: str, imports: str = "") -> None:
    """Add a setting to the settings class of a dataset, and an import that it needs."""
    file = lab.root / program
    text = file.read_text().replace("    noise:", f"    {option}\n    noise:")
    file.write_text(text.replace("import Run\n", f"import Run\n{imports}\n"))


def test_copies_have_their_own(bare: Lab) -> None:
    """A new experiment has a schema of its own, which git ignores, and a run brings it up to date."""
    said(bare, "new", "dataset02")
    program = DATASET.replace("dataset01", "dataset02")
    config = "config/dataset/dataset02/config.yaml"
    text = (bare.root / config).read_text()
    assert problems(bare, text, config) == []
    assert len(problems(bare, f"{text}width: 3\n", config)) == 1
    with_option(bare, program, "width: int = 1")
    bare.done(program)
    assert problems(bare, f"{text}width: 3\n", config) == []
    assert SCHEMA not in bare.git("status", "--porcelain", "--untracked-files=all")


def test_imports_what_it_must(bare: Lab) -> None:
    """Where the class of the settings needs an import, the experiment is imported; one that can't be has no
    schema, and the reason is told."""
    with_option(bare, DATASET, "split: Split", "from src.utils.folds import Split")
    with_option(bare, FEATURE, "", "import nowhere")
    program = bare.root / FEATURE
    program.write_text(program.read_text().replace("(StageSettings)", "(nowhere.Settings)"))
    done = typed(bare, "schema")
    assert done.returncode == 1
    assert done.stdout.startswith("2 schemas")
    assert "feature/feature01: no schema: No module named 'nowhere'" in done.stdout
    config = "config/dataset/dataset01/config.yaml"
    text = (bare.root / config).read_text()
    assert problems(bare, f"{text}split: time\n", config) == []
    assert len(problems(bare, f"{text}split: random\n", config)) == 1


def test_comments() -> None:
    """A comment stands behind a setting, and may go on in the next lines, or above it."""
    text = (
        "a: '#1'  # one,\n         # two\nb: [1]\n# of c\nc:\n  d: 1  # of d\n  e: {f: 1}  # of e\n"
    )
    assert yaml_comments(text) == {"a": "one, two", "c": "of c", "c.d": "of d", "c.e": "of e"}
    source = "class A:\n    # of b\n    b: int = 1  # type: ignore[x]  # why\n    c = 'ä'  # of c\n"
    assert class_comments(source, "A") == {"b": "of b", "c": "of c"}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "minimum": 0, "exclusiveMaximum": 10}, "integer from 0 to 9"),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "number above 0 and at most 1"),
        ({"anyOf": [{"enum": ["min", "max"]}, {"type": "null"}]}, "min, max or null"),
        ({"type": "array", "items": {"type": "string"}}, "list of text"),
        ({"type": ["boolean", "integer"], "minimum": 0}, "true or false or integer of at least 0"),
        ({}, "any value"),
    ],
)
def test_types_in_words(schema: dict[str, Any], words: str) -> None:
    """A type and its range are told in words."""
    assert type_in_words(schema) == words


def completed(program: Path, text: str) -> set[str]:
    """What is suggested at the mark `|` in the text of a program."""
    before = text[: text.index("|")]
    script = jedi.Script(text.replace("|", ""), path=program, project=jedi.Project(ROOT))
    line = before.count("\n") + 1
    return {one.name for one in script.complete(line, len(before.splitlines()[-1]))}


@pytest.mark.parametrize(
    ("typed", "expected"),
    {
        "cfg.|": {"width", "monitor", "seed", "model_dump"},
        "run.|": {"log", "report", "save", "part", "input", "fold", "predictions", "saved"},
        "run.part('a').|": {"once", "saved", "resume_from"},
        "run.input('feature').|": {"joinpath", "read_text"},
    }.items(),
)
def test_minimal_program_is_completed(typed: str, expected: set[str]) -> None:
    """In a program, `cfg.` has its own and the inherited settings, and `run.` the methods of a run."""
    program = ROOT / "src" / "model" / "model01" / "program.py"
    assert expected <= completed(program, MINIMAL.format(typed))


def test_program_is_completed() -> None:
    """So it is in a Lightning training."""
    program = PROJECT / MODEL
    text = program.read_text()
    cfg = completed(program, text.replace("tracked_trainer(run, cfg)", "cfg.|", 1))
    assert {"hidden", "learning_rate", "max_epochs", "trainer", "folds", "note"} <= cfg
    trainer = completed(program, text.replace("best_score(trainer)", "trainer.|", 1))
    assert {"fit", "test", "callback_metrics"} <= trainer
