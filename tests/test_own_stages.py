"""Stages of one's own: any folder of `src`. And the smallest program that is an experiment."""

import json
from pathlib import Path
from textwrap import dedent

from src.utils.store.record import RunRecord

import pytest
from conftest import Lab, copy_experiment, made_once
from laboratory import said
from test_housekeeping import stale_folder

DATA = "src/embedding/embedding01/coordinates.py"
MODEL = "src/ensemble/ensemble01/vote.py"
SMALLEST = "src/ensemble/ensemble93/smallest.py"
FILES = {
    DATA: '''\
        """Data of a stage of one's own.

        python src/embedding/embedding01/coordinates.py
        """

        from src.utils.experiment import experiment
        from src.utils.run import Run
        from src.utils.settings import StageSettings


        class Config(StageSettings):
            size: int
            embedding: str | None = None


        @experiment
        def main(cfg: Config, run: Run) -> None:
            run.tag_data(size=str(cfg.size))
            (run.output / "numbers.txt").write_text("1" * cfg.size)


        if __name__ == "__main__":
            main()
        ''',
    "config/embedding/embedding01/config.yaml": """\
        defaults: [/stage, _self_]
        size: 3
        """,
    MODEL: '''\
        """A model in a stage of one's own, which reads data of two stages.

        python src/ensemble/ensemble01/vote.py
        """

        from src.utils.experiment import experiment
        from src.utils.run import Run
        from src.utils.settings import ModelSettings


        class Config(ModelSettings):
            embedding: str | list[str] | int | dict[str, int]
            feature: str | None
            ensemble: str = "mean"  # a setting like any other: that stage makes no data
            model: str = "linear"
            x: float


        @experiment
        def main(cfg: Config, run: Run) -> float:
            folders = [*run.inputs("embedding"), *run.inputs("feature")]
            sizes = [len((folder / "numbers.txt").read_text()) for folder in folders]
            run.save("sizes.txt", lambda file: file.write_text(repr(sizes)))
            return cfg.x * sum(sizes)


        def load(folder):
            return (folder / "sizes.txt").read_text()


        if __name__ == "__main__":
            main()
        ''',
    "config/ensemble/ensemble01/config.yaml": """\
        defaults: [/model, _self_]
        embedding: embedding01
        feature: null
        x: 0.5
        """,
    SMALLEST: """\
        from src.utils.experiment import experiment


        @experiment
        def main(cfg, run):
            return abs(cfg.seed - 3)


        if __name__ == "__main__":
            main()
        """,
    "config/ensemble/ensemble93/config.yaml": """\
        defaults:
          - /model
        """,
}


@pytest.fixture(scope="session")
def staged(shared: Path, clone: Lab) -> Lab:
    """A laboratory with two stages of its own, in which the model has run. To be read only."""

    def make(lab: Lab) -> None:
        clone.copied(lab.root)
        for name, text in FILES.items():
            (lab.root / name).parent.mkdir(parents=True, exist_ok=True)
            (lab.root / name).write_text(dedent(text))
        lab.git("add", ".")
        lab.git("commit", "--quiet", "--message=Stages")
        assert "embedding/embedding01 is missing: building it first" in lab.done(MODEL)

    return made_once(shared / "staged", make)


@pytest.fixture(name="own")
def an_own_one(staged: Lab, tmp_path: Path) -> Lab:
    """A copy of the laboratory that the test may change."""
    return staged.copied(tmp_path / "own")


def error(lab: Lab, program: str, *overrides: str) -> str:
    """The one line with which a program is refused."""
    done = lab.run(program, *overrides)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    return done.stderr.removeprefix("error: ").strip()


def set_size(lab: Lab, name: str, size: int) -> None:
    file = lab.root / "config/embedding" / name / "config.yaml"
    file.write_text(f"defaults: [/stage, _self_]\nsize: {size}\n")


def test_lineage(staged: Lab) -> None:
    """A model's run leads back to the run that made its data, whatever stage they are of."""
    (maker,) = staged.runs("embedding/embedding01")
    shown = said(staged, "show", "ensemble01/latest")
    assert f"made by run {maker.info.run_id[:8]}" in shown
    assert "load_model" in shown
    wrote = said(staged, "show", "embedding01/latest")
    assert "wrote embedding/embedding01" in wrote
    assert "load_model" not in wrote
    out, warned = staged.python("""
        from src.utils.tracking import data_of_run, load_model
        print(load_model("latest"), data_of_run("latest", "embedding"))
    """)
    assert out == f"[3] {(staged.root / '_data/embedding/embedding01').resolve()}\n"
    assert warned == ""


def test_out_of_date(own: Lab) -> None:
    """Data of a stage of one's own are built again when their settings have changed, and else not."""
    set_size(own, "embedding01", 4)
    assert "size=4 in config/embedding/embedding01, it was 3" in own.done(MODEL, "note=four")
    assert own.newest("ensemble/ensemble01").data.metrics["objective"] == 2.0
    assert "is up to date" in own.done(DATA)
    report = said(own, "diary")
    assert report.index("### ensemble/ensemble01") < report.index("### embedding/embedding01")
    assert "- best: " in report
    assert report.count("- best: ") == 1  # data are not compared


def test_two_stages(own: Lab) -> None:
    """A model reads several experiments of several stages, in the order of its settings."""
    copy_experiment(own, "embedding/embedding01", "feature/feature93")
    said(own, "new", "embedding02", "--note", "a copy")
    set_size(own, "embedding02", 5)
    both = "embedding=[embedding02,embedding01]"
    assert own.done(MODEL, both, "feature=feature93").count("building it first") == 2
    run = own.newest("ensemble/ensemble01")
    assert (own.artifacts(run) / "model/sizes.txt").read_text() == "[5, 3, 3]"
    assert run.data.tags["data.size"] == "3+5"
    assert "verdict: identical" in said(own, "rerun", run.info.run_id)


def test_models_of_any_stage(own: Lab) -> None:
    """A model of any stage is searched, listed and ranked; what makes data is not."""
    own.done(SMALLEST, "-m", "seed=1,3")
    listed = json.loads(said(own, "runs", "--json"))
    names = [run["experiment"] for run in listed]
    assert names == [*["ensemble/ensemble93"] * 3, "ensemble/ensemble01"]  # with the study's
    best = json.loads(said(own, "best", "ensemble93", "--json"))
    assert (best["params"]["seed"], best["metrics"]["objective"]) == (3, 0.0)
    assert len(json.loads(said(own, "runs", "-e", "embedding", "--json"))) == 1
    assert "embedding/embedding01 makes data" in error(own, DATA, "-m", "size=1,2")


def test_gc(own: Lab) -> None:
    """Folders of commands that made no run are found in any stage."""
    name = "outputs/embedding/embedding01/2026-01-01/00-00-00-aaaa"
    stale_folder(own, name)
    stale_folder(own, "outputs/embedding/embedding01/mine/00-00-00-aaaa")
    listed = said(own, "gc")
    assert name in listed
    assert "mine" not in listed


@pytest.mark.parametrize(
    ("program", "override", "message"),
    [
        (MODEL, "embedding=embedding99", "embedding=embedding99 is refused: there are embedding01"),
        (MODEL, "embedding=128", "embedding=128 is refused: src/embedding is a stage"),
        (MODEL, "embedding={size:2}", "embedding={'size': 2} is refused: src/embedding is a stage"),
        (DATA, "+embedding=embedding01", "embedding/embedding01 would read itself"),
    ],
)
def test_mistakes(staged: Lab, program: str, override: str, message: str) -> None:
    """A setting with the name of a stage that names nothing there is answered in one line."""
    assert message in error(staged, program, override)


def test_no_stage(own: Lab) -> None:
    """Three folders of src can be no stage: their names have another meaning."""
    program = own.root / "src/data/data01/smallest.py"
    program.parent.mkdir(parents=True)
    program.write_text((own.root / SMALLEST).read_text())
    message = error(own, "src/data/data01/smallest.py")
    assert message.endswith("a stage has a Python name, not data, sample, utils, versions")


def test_data_of_itself(own: Lab) -> None:
    """Data that are made of themselves are refused before they are built again and again."""
    first, second = "embedding/embedding02", "embedding/embedding03"
    for name, other in ((first, "embedding03"), (second, "embedding02")):
        copy_experiment(own, "embedding/embedding01", name)
        with (own.root / "config" / name / "config.yaml").open("a") as config:
            config.write(f"embedding: {other}\n")
    done = own.run(f"src/{first}/coordinates.py")
    assert done.returncode == 2
    assert f"{second} reads what is made of itself: {second} → {first} → {second}" in done.stderr


def test_a_model_makes_no_data(own: Lab) -> None:
    """A model can't be an input of another experiment."""
    copy_experiment(own, "ensemble/ensemble01", "embedding/embedding04")
    message = error(own, MODEL, "embedding=embedding04")
    expected = (
        "embedding=embedding04 is refused: embedding/embedding04 is a model and makes no data"
    )
    assert message == expected


@pytest.mark.parametrize(
    ("experiment", "params", "tags", "is_model"),
    [
        ("model/old", {"seed": "0"}, {}, True),
        ("feature/old", {"force": "False"}, {}, False),
        ("ensemble/new", {"resume_run": "None", "force": "1"}, {}, True),
        ("ensemble/new", {}, {"optuna.study": "11-24"}, True),
        ("embedding/new", {"force": "False"}, {}, False),
        ("of another tool", {"learning_rate": "0.1"}, {}, False),
    ],
)
def test_records(
    experiment: str, params: dict[str, str], tags: dict[str, str], is_model: bool
) -> None:
    """Whether a run is of a model is read from what was recorded of it, also by earlier versions."""
    record = RunRecord("1", "run", experiment, "FINISHED", None, None, "", params, {}, tags)
    assert record.is_model is is_model


def test_smallest_program(own: Lab) -> None:
    """A model without settings of its own is ten lines; it is run and asked like any other."""
    answer = own.question(own.root / SMALLEST, "--help")
    assert "seed: 0" in answer.text
    assert not {"mlflow", "numpy"} & answer.imported
    own.done(SMALLEST, "seed=1")
    assert own.newest("ensemble/ensemble93").data.metrics["objective"] == 2
    assert "did you mean seed" in error(own, SMALLEST, "sed=1")


def test_first_lines(own: Lab) -> None:
    """A config.yaml that is missing, or doesn't begin with its tier, is one line; so is another `main`."""
    config = own.root / "config/ensemble/ensemble93/config.yaml"
    config.write_text("seed: 1\n")
    advice = "its first line should be `defaults: [/model]`, or with /training or /stage"
    assert error(own, SMALLEST).endswith(f"that lead to config/utils/hydra.yaml: {advice}")
    config.unlink()
    missing = f"config/ensemble/ensemble93/config.yaml is missing or has no defaults: {advice}"
    assert error(own, SMALLEST) == missing
    config.parent.rmdir()
    assert error(own, SMALLEST, "--help") == missing
    config.parent.mkdir()
    config.write_text("defaults: [/model]\n")
    program = own.root / SMALLEST
    program.write_text(program.read_text().replace("(cfg, run)", "(cfg: dict, run)"))
    assert error(own, SMALLEST).startswith("main(cfg: dict, run) should be main(cfg: Config, run)")
