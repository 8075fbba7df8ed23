"""`scripts/run.sh` in a project with experiments of its own."""

import re
import shutil

from conftest import DATASET, FEATURE, MODEL, Lab


def name_programs(lab: Lab, *programs: str) -> None:
    """Edit the line of run.sh that is made for it."""
    script = lab.root / "scripts/run.sh"
    line = f"programs=({' '.join(programs)})"
    lines, count = re.subn(r"(?m)^programs=.*$", line, script.read_text())
    assert count == 1
    script.write_text(lines)


def test_run_names_what_is_missing(bare: Lab) -> None:
    """Without the example, run.sh says in one line where to put one's own programs, and does nothing."""
    name_programs(bare, DATASET, FEATURE, MODEL)
    shutil.rmtree(bare.root / "src/feature/feature01")
    before = bare.files()
    process = bare.start("bash", "scripts/run.sh")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.count("\n")) == (2, "", 1)
    assert "there is no src/feature/feature01" in err
    assert "programs=(…) of scripts/run.sh" in err
    assert bare.files() == before


def test_run_follows_its_line(bare: Lab) -> None:
    """It runs the programs that its line names, in order; overrides go to the last."""
    name_programs(bare, "one.py", "two.py")
    (bare.root / "scripts/setup.sh").write_text("echo setup\n")
    for name in ("one", "two"):
        (bare.root / f"{name}.py").write_text(f"import sys\nprint('{name}', *sys.argv[1:])\n")
    process = bare.start("bash", "scripts/run.sh", "learning_rate=0.002")
    assert process.communicate(timeout=60) == ("setup\none\ntwo learning_rate=0.002\n", "")
