"""Whether .venv belongs to this folder: in a copied project it may lead to the original."""

import os
import subprocess
import sys
from pathlib import Path

from src.utils.layout import ROOT


def environment_of_copy() -> Path | None:
    """The .venv of a copy that runs the code of this folder, unless PYTHONPATH says so."""
    typed = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    if ROOT in (Path(folder).resolve() for folder in typed):
        return None
    environments = (Path(sys.prefix), Path(sys.argv[0]).absolute().parent.parent)
    return next((one for one in environments if _is_of_a_copy(one.parent)), None)


def _is_of_a_copy(folder: Path) -> bool:
    """Another project like this one, not just any folder above it."""
    here = Path(__file__).resolve().relative_to(ROOT)
    return (folder / here).exists() and not folder.samefile(ROOT)


def imported_source() -> Path | None:
    """The folder that `import src` finds, wherever it is done."""
    command = [sys.executable, "-P", "-c", "import src; print(*src.__path__)"]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    return Path(found.stdout.strip()).resolve() if found.returncode == 0 else None
