"""Start a Slurm cluster of two nodes with all stores, for trying things by hand; Ctrl-C ends it.

PYTHONPATH=tests python -m scale
"""

import shlex
import signal
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from scale.postgres import postgres
from scale.slurm import slurm
from scale.stores import stores

with (
    TemporaryDirectory() as folder,
    postgres() as database,
    stores(Path(folder, "stores"), database) as addresses,
    slurm(Path(folder, "slurm")) as cluster,
):
    for name, value in (addresses | cluster.environment).items():
        print(f"export {name}={shlex.quote(value)}", flush=True)
    with suppress(KeyboardInterrupt):
        signal.pause()
