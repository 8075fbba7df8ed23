"""The name of a study: what tells it from others comes first, since tables and charts cut long names."""

import re
from collections.abc import Iterable
from pathlib import Path

from src.utils.layout import Experiment

MOMENT = re.compile(r"\d{4}-(\d\d-\d\d)/(\d\d-\d\d)-\d\d-(\w+)")  # as in config/utils/hydra.yaml
MOST = 2  # names of settings


def study_name(here: Experiment, folder: Path, space: Iterable[str]) -> str:
    """`11-24-17-22-learning_rate+hidden-688d` for multirun/…/2026-11-24/17-22-08-688d."""
    names = [name.lstrip("+").rpartition(".")[2].replace("/", ".") for name in space]
    more = ["more"] if len(names) > MOST else []
    searched = "+".join([*names[:MOST], *more]) or "search"
    place = "/".join(folder.parts[-2:])
    moment = MOMENT.fullmatch(place)
    if moment is None:  # a folder that was typed
        return f"{here.name}-{place.replace('/', '-')}-{searched}"
    day, minute, unique = moment.groups()
    return f"{day}-{minute}-{searched}-{unique}"
