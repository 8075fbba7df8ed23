"""Makes .venv of a linked git worktree from that of the main checkout: 60 MB instead of 1 to 7 GB.

    MAIN/.venv/bin/python -I scripts/share.py

It is an environment of its own, which finds the packages of the main checkout after its own, and never the
main checkout's `src`. What poetry.lock has otherwise here is installed here alone. `scripts/setup.sh` calls
this, and then Poetry. Programs are copied, not linked: what Poetry writes here stays here.
"""

import shutil
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1].absolute()
VENV = ROOT / ".venv"
COPIED = ("share", "etc")  # what JupyterLab and nbconvert look for beside the packages


def share(main: Path) -> None:
    """Make .venv from that of the main checkout."""
    (packages,) = main.glob("lib/python*/site-packages")
    venv.create(VENV, symlinks=True, prompt=ROOT.name)
    (own,) = VENV.glob("lib/python*/site-packages")
    (own / "shared.pth").write_text("".join(f"{line}\n" for line in import_lines(main, packages)))
    for folder in COPIED:
        if (main / folder).is_dir():
            shutil.copytree(main / folder, VENV / folder)
    for program in (main / "bin").iterdir():
        copy = VENV / "bin" / program.name
        if program.is_file() and not program.is_symlink() and not copy.exists():
            shutil.copy2(program, copy)
    (VENV / "shared-from").write_text(f"{packages}\n")  # for setup.sh


def import_lines(main: Path, packages: Path) -> Iterator[str]:
    """The lines of a .pth file: the packages, and what is installed in place there, less the project."""
    yield str(packages)
    for file in sorted(packages.glob("*.pth")):
        for line in file.read_text().splitlines():
            folder = (packages / line).resolve()
            if line.startswith(("import ", "import\t")):
                yield line
            elif line.strip() and line[0] != "#" and folder != main.parent:
                yield str(folder)


if __name__ == "__main__":
    share(Path(sys.prefix).resolve())
