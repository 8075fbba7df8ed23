"""Whether .venv belongs to this folder: in a copied project it may lead to the original."""

import os
import subprocess
import sys
from pathlib import Path

from src.utils.layout import ROOT


def environment_of_another() -> Path | None:
    """The .venv of another folder that runs the code of this one, unless PYTHONPATH says so."""
    if str(ROOT) in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        return None
    program = Path(sys.argv[0]).absolute()
    environments = (Path(sys.prefix), program.parent.parent)
    return next((one for one in environments if one.name == ".venv" and not _is_ours(one)), None)


def _is_ours(environment: Path) -> bool:
    own = ROOT / ".venv"
    return own.exists() and environment.exists() and own.samefile(environment)


def imported_source() -> Path | None:
    """The folder that `import src` finds, wherever it is done."""
    command = [sys.executable, "-P", "-c", "import src; print(*src.__path__)"]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    return Path(found.stdout.strip()).resolve() if found.returncode == 0 else None
