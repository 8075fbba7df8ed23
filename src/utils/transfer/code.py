"""The commits that runs ran with travel with them, each without its history."""

import logging
from collections.abc import Sequence

from src.utils.errors import one_line
from src.utils.runs.git import GitError, has_commit
from src.utils.transfer.place import Place
from src.utils.transfer.portable import COMMIT, PortableRun

from filelock import Timeout

log = logging.getLogger(__name__)


def move_code(source: Place, target: Place, runs: Sequence[PortableRun]) -> list[str]:
    """Bring the commits of some runs to another place; returns those that were written.

    Runs travel without their code where git can't read or write it; a warning says so.
    """
    commits = dict.fromkeys(run.tags[COMMIT] for run in runs if run.tags.get(COMMIT))
    missing = [commit for commit in commits if not target.has_code(commit)]
    moved: list[str] = []
    try:
        with source.repositories(missing) as repositories:
            for repository in repositories:
                found = [one for one in missing if one not in moved and has_commit(repository, one)]
                if found:
                    target.add_code(repository, found)
                moved += found
    except (GitError, Timeout) as error:
        log.warning("the code of these runs stays at %s: %s", source.name, one_line(error))
    return moved
