"""How the commands that a person may want next are typed here."""

import shutil

from src.utils.entry import Entry
from src.utils.layout import Experiment


def python() -> str:
    """How the environment's Python is called here."""
    return "poetry run python" if shutil.which("poetry") else ".venv/bin/python"


def lab() -> str:
    """How this tool is called here."""
    return "poetry run lab" if shutil.which("poetry") else ".venv/bin/lab"


def reload(reference: str) -> str:
    """Loads the model of a run."""
    code = f'from src.utils.tracking import load_model; print(load_model("{reference}"))'
    return f"{python()} -c '{code}'"


def run(here: Experiment) -> str:
    """Runs an experiment."""
    return f"{python()} src/{here}/{here.program().name}"


def next_of(one: Entry) -> dict[str, str]:
    """What one may want to do with a run."""
    if one.is_study:
        program = f"{python()} {one.tags.get('mlflow.source.name')}"
        again = {"go on": f"{program} -m resume={one.name} hydra.sweeper.n_trials=…"}
        return {"reload": reload(one.name), **again, "best": f"{lab()} show {one.name}/best"}
    commands = {"rerun": f"{lab()} rerun {one.short}"}
    if one.experiment.startswith("model/"):
        if one.state in ("killed", "failed", "running"):
            commands["resume"] = f"{lab()} resume {one.short}"
        else:
            commands |= {"reload": reload(one.short), "export": f"{lab()} export {one.short} DIR"}
    return commands
