"""A new experiment: two folders copied from an old one, and a place in the diary."""

import re
import shutil
from difflib import get_close_matches
from pathlib import Path

from src.utils.errors import UserError
from src.utils.paths import ROOT, STAGES, Experiment

NAME = re.compile(r"[A-Za-z]\w*")


def fork(source: Experiment, name: str) -> Experiment:
    """Copy code and config of an experiment; refuses to overwrite anything."""
    new = Experiment(source.stage, name)
    if not NAME.fullmatch(name):
        raise UserError(f"{name!r} is no name for a folder of Python code: letters, digits and _")
    for place in (new.source, new.config):
        if place.exists():
            raise UserError(f"{place.relative_to(ROOT)} is there already: choose another name")
    if not source.config.is_dir():
        raise UserError(f"config/{source} is missing: {source} has no settings to copy")
    try:
        for old, copy in ((source.source, new.source), (source.config, new.config)):
            shutil.copytree(old, copy, ignore=shutil.ignore_patterns("__pycache__"))
            _rename(copy, source, new)
    except BaseException:
        for half in (new.source, new.config):
            shutil.rmtree(half, ignore_errors=True)
        raise
    return new


def _rename(folder: Path, old: Experiment, new: Experiment) -> None:
    """Docstrings and comments, such as the command at the head of a program, name the new experiment."""
    for file in (*folder.rglob("*.py"), *folder.rglob("*.yaml")):
        text = file.read_text()
        file.write_text(re.sub(rf"\b{old}\b", str(new), text))


def experiments() -> list[Experiment]:
    """All there are, by stage and name."""
    folders = [path for stage in STAGES for path in sorted((ROOT / "src" / stage).glob("*/"))]
    return [Experiment(path.parent.name, path.name) for path in folders if _has_code(path)]


def find_experiment(name: str, stage: str | None = None) -> Experiment:
    """The experiment that `model01` or `model/model01` means."""
    inside, _, last = name.rpartition("/")
    known = experiments()
    found = [
        one for one in known if one.name == last and one.stage in (inside or stage or one.stage)
    ]
    match found:
        case [one]:
            return one
        case []:
            near = get_close_matches(name, [*(one.name for one in known), *map(str, known)], n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(map(str, known))}"
            raise UserError(f"there is no experiment {name!r}: {hint}")
        case _:
            stages = " and ".join(one.stage for one in found)
            raise UserError(f"{name!r} is in {stages}: say which with --stage")


def likely_source(name: str, stage: str | None = None) -> Experiment:
    """What a new experiment is most likely copied from: the last one whose name begins like its own."""
    stem = name.rstrip("0123456789")
    found = [one for one in experiments() if one.name.rstrip("0123456789") == stem]
    found = [one for one in found if stage in (None, one.stage)]
    if not found:
        raise UserError(f"{name} begins like no experiment there is: say --from NAME")
    return found[-1]


def _has_code(folder: Path) -> bool:
    return any(folder.glob("*.py"))
