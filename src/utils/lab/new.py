"""`lab new`: a new experiment as a copy of an existing one, or of the smallest that runs (template/minimal).

Both folders are copied, src/<stage>/<name> and config/<stage>/<name>, and the diary gets an entry.
"""

import re
import shutil
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path

from src.utils.config.json_schema import write_schema
from src.utils.config.settings_class import read_settings_class
from src.utils.errors import UserError
from src.utils.lab.diary import add_entry
from src.utils.paths import ROOT, STAGES, Experiment, is_stage, list_stages
from src.utils.terminal import run_command

from yaml import YAMLError

NAME = re.compile(r"[A-Za-z]\w*")
MINIMAL = ROOT / "template" / "minimal"  # the smallest experiment of each stage
TABLE = "table.parquet"  # what these write, and can read of the stage before theirs
STAGE_BEFORE = {"model": "feature", "feature": "dataset"}


def new_experiment(
    name: str, source: str | None, stage: str | None, note: str
) -> tuple[Experiment, str]:
    """Copy an experiment and add it to the diary; returns the new one and what to print.

    Args:
        source: the experiment to copy; None means the last one with a similar name.

    Raises:
        UserError: there is no such source, or the name is refused.
    """
    old = find_experiment(source, stage) if source else default_source(name, stage)
    copy = copy_experiment(old, name)
    page = add_entry(copy, old, note)
    return copy, (
        f"src/{copy} and config/{copy} are copies of {old}; diary/{page.name} has an entry for it\n"
        f"run it: {run_command(copy)}"
    )


def new_minimal(name: str, stage: str | None, note: str) -> tuple[Experiment, str]:
    """Begin an experiment with the smallest one of its stage; returns it and what to print.

    Args:
        stage: None means the one that the name begins with; a stage of one's own makes data.

    Raises:
        UserError: the stage is not known or can't be one, or the name is refused.
    """
    new = Experiment(stage or _stem(name), name)
    if stage is None and new.stage not in list_stages():
        raise UserError(f"{name} begins with no stage: choose one with --stage, as --stage model")
    if not is_stage(new.stage):
        raise UserError(f"{new.stage!r} cannot name a stage: use letters, digits and _")
    kind = new.stage if new.stage in STAGES else "feature"
    old = Experiment(kind, f"{kind}01")
    _copy_folders(MINIMAL / "src" / str(old), MINIMAL / "config" / str(old), old, new)
    source = _read_what_there_is(kind, new)
    page = add_entry(new, f"the smallest {kind}", note)
    reads = f", and reads {source}" if source else ""
    return new, (
        f"src/{new} and config/{new} are the smallest {kind} that runs{reads}; diary/{page.name} has an "
        f"entry for it\nrun it: {run_command(new)}"
    )


def next_model() -> str:
    """The first free name of a model."""
    first = Experiment("model", "model01")
    return first.next().name if first.source.exists() else first.name


def _read_what_there_is(kind: str, new: Experiment) -> Experiment | None:
    """Have a minimal experiment read the last one of the stage before its own that makes such a table."""
    stage = STAGE_BEFORE.get(kind)
    known = [one for one in list_experiments() if one.stage == stage and one != new]
    found = [one for one in known if TABLE in one.program().read_text()]
    if not found:
        return None
    settings = new.config / "config.yaml"
    settings.write_text(
        settings.read_text().replace(f"{stage}: null", f"{stage}: {found[-1].name}")
    )
    return found[-1]


def as_dict(new: Experiment) -> dict[str, object]:
    """A new experiment as `lab new --json` prints it."""
    program = new.program()
    return {
        "experiment": str(new),
        "program": program,
        "config": new.config,
        "run": run_command(new),
    }


def list_experiments() -> list[Experiment]:
    """All experiments, by stage and name."""
    folders = [
        path for stage in list_stages() for path in sorted((ROOT / "src" / stage).glob("*/"))
    ]
    return [Experiment(path.parent.name, path.name) for path in folders if any(path.glob("*.py"))]


def find_experiment(name: str, stage: str | None = None) -> Experiment:
    """Find an experiment by `model01` or `model/model01`.

    Raises:
        UserError: there is no such experiment, or the name is in several stages.
    """
    prefix, _, last = name.rpartition("/")
    stage = prefix or stage
    known = list_experiments()
    found = [other for other in known if other.name == last and stage in (None, other.stage)]
    match found:
        case [experiment]:
            return experiment
        case []:
            names = [*(other.name for other in known), *map(str, known)]
            near = get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(map(str, known))}"
            raise UserError(f"there is no experiment {name!r}: {hint}")
        case _:
            stages = " and ".join(other.stage for other in found)
            raise UserError(f"{name!r} is in {stages}: choose one with --stage")


def default_source(name: str, stage: str | None = None) -> Experiment:
    """The source of a copy by default: the last experiment whose name differs only in its number.

    Raises:
        UserError: there is none.
    """
    stem = _stem(name)
    found = [
        experiment
        for experiment in list_experiments()
        if _stem(experiment.name) == stem and stage in (None, experiment.stage)
    ]
    if not found:
        raise UserError(f"no experiment has a name like {name}: choose one with --from NAME")
    return found[-1]


def _stem(name: str) -> str:
    """`model` of `model01`."""
    return name.rstrip("0123456789")


def copy_experiment(source: Experiment, name: str) -> Experiment:
    """Copy the code and the config of an experiment, and rename it in docstrings and comments.

    Raises:
        UserError: the name is not a Python name, is taken or is that of the blends, or the source has no
            config folder.
    """
    new = Experiment(source.stage, name)
    if not source.config.is_dir():
        raise UserError(f"config/{source} is missing: {source} has no settings to copy")
    _copy_folders(source.source, source.config, source, new)
    return new


def _copy_folders(source: Path, config: Path, old: Experiment, new: Experiment) -> None:
    """Copy both folders of an experiment, or neither, and write the schema of its settings."""
    _check_name(new)
    try:
        for folder, copy in ((source, new.source), (config, new.config)):
            shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("__pycache__"))
            _rename(copy, old, new)
    except BaseException:
        for incomplete in (new.source, new.config):
            shutil.rmtree(incomplete, ignore_errors=True)
        raise
    with suppress(UserError, YAMLError):  # which `lab schema` and a run report
        settings_class = read_settings_class(new.program())
        if settings_class is not None:
            write_schema(new, settings_class)


def _check_name(new: Experiment) -> None:
    if not NAME.fullmatch(new.name):
        raise UserError(
            f"{new.name!r} cannot name a folder of Python code: use letters, digits and _"
        )
    new.check_name()
    for folder in (new.source, new.config):
        if folder.exists():
            raise UserError(f"{folder.relative_to(ROOT)} exists already: choose another name")


def _rename(folder: Path, old: Experiment, new: Experiment) -> None:
    """Docstrings and comments name the experiment, as in the command at the head of a program."""
    for file in (*folder.rglob("*.py"), *folder.rglob("*.yaml")):
        text = file.read_text()
        file.write_text(re.sub(rf"\b{old}\b", str(new), text))
