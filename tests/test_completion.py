"""Shell completion as bash does it, of programs run by path and of `lab`."""

from pathlib import Path

import pytest
from conftest import MODEL, Lab

TAB = """
source scripts/completion.sh
COMP_LINE=$1
COMP_POINT=${#COMP_LINE}
read -ra COMP_WORDS <<<"$COMP_LINE"
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
function=$(complete -p "${COMP_WORDS[0]##*/}" | sed 's/.*-F \\([^ ]*\\).*/\\1/')
$function "${COMP_WORDS[0]}" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""
LINES = {
    f".venv/bin/python {MODEL} learn": ["learning_rate="],
    f"poetry run python {MODEL} -m 'hidden=choice(8,16)' hydra/sweeper/sampler=gp hid": ["hidden="],
    f"python ./{MODEL} hydra/sweeper/pruner=hyper": ["hyperband"],  # = separates words in bash
    ".venv/bin/lab ru": ["runs"],
    "poetry run lab runs --wh": ["--where"],
    ".venv/bin/lab new model07 --from model/": ["model/model01"],
    "poetry run python nowhere.py learn": [""],
}


@pytest.mark.parametrize("line", LINES)
def test_bash(clone: Lab, line: str) -> None:
    """After one `source`, settings, groups, commands and options are completed, without a word besides."""
    process = clone.start("bash", "-c", TAB, "bash", line)
    out, err = process.communicate(timeout=60)
    assert (out.splitlines(), err) == (LINES[line], "")


def test_other_completions_stay(clone: Lab) -> None:
    """What completed Poetry's own commands before still does."""
    before = "_own() { COMPREPLY=(install); }; complete -F _own poetry\n"
    process = clone.start("bash", "-c", before + TAB, "bash", "poetry inst")
    assert process.communicate(timeout=60) == ("install\n", "")


def test_runs(lab: Lab) -> None:
    """Names and ids of runs are completed where a run is wanted, without torch and MLflow."""
    run = lab.newest()
    for typed in (run.info.run_name[:-1], run.info.run_id[:6]):
        process = lab.start("bash", "scripts/completion.sh", "query", f".venv/bin/lab show {typed}")
        out, err = process.communicate(timeout=60)
        assert out.splitlines() in ([run.info.run_name], [run.info.run_id[:8]])
        assert err == ""
    code = "from src.utils.lab.commands.completion import *; print(complete_run(''))"
    answer = lab.question("-c", code)
    assert answer.text.startswith("['latest', 'best', ")
    assert run.info.run_name in answer.text
    assert not {"torch", "mlflow", "pandas"} & answer.imported


def test_without_runs(bare: Lab) -> None:
    """Before the first run there are only the words to complete."""
    process = bare.start("bash", "scripts/completion.sh", "query", ".venv/bin/lab show ")
    assert process.communicate(timeout=60) == ("latest\nbest\n", "")


@pytest.mark.parametrize(
    ("shell", "file"),
    [("bash", ".bashrc"), ("zsh", ".zshrc"), ("fish", ".config/fish/config.fish")],
)
def test_install(clone: Lab, tmp_path: Path, shell: str, file: str) -> None:
    """One command puts one line into the file of the user's shell, however often it is typed, and takes it
    out again; what else is in the file stays."""
    rc = tmp_path / file
    rc.parent.mkdir(parents=True, exist_ok=True)
    rc.write_text("# mine\n")
    home = {"HOME": str(tmp_path), "SHELL": f"/bin/{shell}", "XDG_CONFIG_HOME": "", "ZDOTDIR": ""}
    for action, lines in (("install", 2), ("install", 2), ("uninstall", 1), ("install", 2)):
        process = clone.start("bash", "scripts/completion.sh", action, **home)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
        assert str(rc) in out
        assert len(rc.read_text().splitlines()) == lines
    assert rc.read_text().startswith("# mine\n")
    if shell == "bash":
        script = f"source {rc}; complete -p lab"
        process = clone.start("bash", "-c", script, cwd=tmp_path)
        assert "-F _jikken lab" in process.communicate(timeout=60)[0]


def test_install_elsewhere(clone: Lab, tmp_path: Path) -> None:
    """For another shell it says in one line that there is no completion."""
    home = {"HOME": str(tmp_path), "SHELL": "/bin/tcsh"}
    process = clone.start("bash", "scripts/completion.sh", "install", **home)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.count("\n")) == (2, "", 1)
