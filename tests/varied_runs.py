"""Runs that are made in varied ways, as people make them over months.

Each way types commands in a laboratory and returns the ids of the runs that it has made. After it, code and
data are often other ones. `tests/test_reproducing.py` makes thirty runs, `benchmarks/reproduce.py` as many
as one likes.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

from conftest import DATASET, FEATURE, MODEL, QUICK, Lab, add_experiment, copy_experiment
from laboratory import typed

SOFTMAX = "src/model/model94/softmax.py"
SETTINGS = (
    "defaults:\n  - /model\n  - _self_\n\nfeature: feature01\nmode: max\nrate: 1.0\nepochs: 3\n"
)
Way = Callable[[Lab, Random], list[str]]


def prepare(lab: Lab) -> None:
    """Add the experiment whose runs are quick, and build the data."""
    add_experiment(lab, SOFTMAX, SETTINGS)
    lab.done(FEATURE)


def train(lab: Lab, random: Random, *overrides: str) -> list[str]:
    """Make a run; one in five is a Lightning training."""
    seed = f"seed={random.randrange(1000)}"
    if random.random() < 0.2:
        lab.done(MODEL, *QUICK, "network=mlp", seed, *overrides)
        return newest(lab, MODEL)
    lab.done(SOFTMAX, seed, rate(random), *overrides)
    return newest(lab)


def rate(random: Random) -> str:
    return f"rate={random.uniform(0.5, 2):.3f}"


def newest(lab: Lab, program: str = SOFTMAX) -> list[str]:
    return [lab.newest(str(Path(program).parent.relative_to("src"))).info.run_id]


def edit(lab: Lab, random: Random) -> None:
    """Change what both programs compute."""
    factor = f"{random.uniform(0.5, 1.5):.6f}"
    for program, pattern, text in (
        (SOFTMAX, r"^FACTOR = .*", f"FACTOR = {factor}"),
        (MODEL, r"nn\.Dropout\(dropout.*\)", f"nn.Dropout(dropout * {factor} / 2)"),
    ):
        file = lab.root / program
        file.write_text(re.sub(pattern, text, file.read_text(), flags=re.MULTILINE))


def revert(lab: Lab) -> None:
    lab.git("checkout", "--quiet", "--", "src")
    lab.git("clean", "--quiet", "--force", "-d", "src", "config")


def commit(lab: Lab, message: str) -> None:
    lab.git("add", "src", "config")
    lab.git("commit", "--quiet", f"--message={message}")


def clean(lab: Lab, random: Random) -> list[str]:
    """A run of a commit, after which the code goes on."""
    runs = train(lab, random)
    edit(lab, random)
    commit(lab, "Go on")
    return runs


def dirty(lab: Lab, random: Random) -> list[str]:
    """A run with changes that are never committed."""
    edit(lab, random)
    runs = train(lab, random)
    revert(lab)
    return runs


def untracked(lab: Lab, random: Random) -> list[str]:
    """A run that imports a file that git has never seen."""
    program = lab.root / SOFTMAX
    name = f"factor{random.randrange(10**6)}"
    program.with_name(f"{name}.py").write_text(f"FACTOR = {random.uniform(0.5, 1.5):.6f}\n")
    imported = re.sub(
        r"^FACTOR = .*", f"from {name} import FACTOR", program.read_text(), flags=re.MULTILINE
    )
    program.write_text(imported)
    lab.done(SOFTMAX, rate(random))
    revert(lab)
    return newest(lab)


def deleted(lab: Lab, random: Random) -> list[str]:
    """A run of an experiment whose folders are deleted afterwards; half of them had been committed."""
    copy_experiment(lab, "model/model94", "model/model95")
    is_committed = random.random() < 0.5
    if is_committed:
        commit(lab, "Another experiment")
    program = SOFTMAX.replace("94", "95")
    lab.done(program, rate(random))
    runs = newest(lab, program)
    for side in ("src", "config"):
        shutil.rmtree(lab.root / side / "model" / "model95")
    if is_committed:
        commit(lab, "Delete it")
    return runs


def trials(lab: Lab, random: Random) -> list[str]:
    """The two trials of a search."""
    searched = (
        "rate=interval(0.5,2)",
        f"seed={random.randrange(1000)}",
        "hydra.sweeper.n_trials=2",
    )
    lab.done(SOFTMAX, "-m", *searched, "hydra.sweeper.direction=maximize")
    runs = lab.runs("model/model94")[:3]
    return [run.info.run_id for run in runs if "optuna.trial" in run.data.tags]


def resumed(lab: Lab, random: Random) -> list[str]:
    """A run that was killed by SIGKILL and then resumed."""
    killed = lab.run(SOFTMAX, rate(random), f"seed={random.randrange(1000)}", KILL="2")
    assert killed.returncode == -9, killed.stdout + killed.stderr
    runs = newest(lab)
    done = typed(lab, "resume", *runs)
    assert done.returncode == 0, done.stdout + done.stderr
    return runs


def rebuilt_feature(lab: Lab, random: Random) -> list[str]:
    """A run of a feature that was built with other settings."""
    lab.done(FEATURE, f"val_fraction={random.uniform(0.05, 0.3):.3f}")
    return train(lab, random)


def other_dataset(lab: Lab, random: Random) -> list[str]:
    """A run of data that were made with other settings; the feature between them follows."""
    lab.done(DATASET, f"noise={random.uniform(80, 140):.2f}")
    return train(lab, random)


def lost_commit(lab: Lab, random: Random) -> list[str]:
    """A run of a commit that is not in the repository any more."""
    lab.git("checkout", "--quiet", "-b", "idea")
    edit(lab, random)
    commit(lab, "An idea")
    runs = train(lab, random)
    lab.git("checkout", "--quiet", "main")
    lab.git("branch", "--quiet", "--delete", "--force", "idea")
    lab.git("reflog", "expire", "--expire=now", "--all")
    lab.git("gc", "--quiet", "--prune=now")
    return runs


def pulled(lab: Lab, random: Random) -> list[str]:
    """A run that another clone has made, from code and data that were never here."""
    folder = lab.root.with_name(f"{lab.root.name}-colleague{random.randrange(10**6)}")
    colleague = lab.copied(folder)
    shutil.rmtree(folder / "logs")
    edit(colleague, random)
    commit(colleague, "A colleague's")
    runs = other_dataset(colleague, random)
    done = typed(lab, "pull", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.rmtree(folder)
    return runs


WAYS: dict[str, Way] = {
    way.__name__: way
    for way in (
        clean,
        dirty,
        untracked,
        deleted,
        trials,
        resumed,
        rebuilt_feature,
        other_dataset,
        lost_commit,
        pulled,
    )
}


def change_everything(lab: Lab, random: Random) -> None:
    """Make code and data of now something else, and lose half of the data versions."""
    edit(lab, random)
    commit(lab, "Another day")
    lab.done(DATASET, "noise=33")
    lab.done(FEATURE, "val_fraction=0.4")
    versions = sorted((lab.root / "_data" / "versions").glob("*/*/*/manifest.json"))
    for manifest in random.sample(versions, len(versions) // 2):
        shutil.rmtree(manifest.parent)
