"""Shell completion as bash does it, of programs run by path and of `lab`."""

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
