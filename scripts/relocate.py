"""Makes .venv belong to this folder and to no other, so that a project can be moved and copied.

    .venv/bin/python -I scripts/relocate.py

Poetry and pip write absolute paths into .venv. In a copied project these lead to the original: its code
is imported and its programs are started, and Poetry, which removes what its RECORD names, deletes files
there. `scripts/setup.sh` calls this before and after Poetry. Every file is replaced, never written into:
it may be a hard link to the original's.
"""

import csv
import io
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from os.path import relpath
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[1].absolute()
VENV = ROOT / ".venv"

# Programs begin with the absolute path of their Python. This finds the Python beside the program, also
# where the program is called by a link from elsewhere. To Python it is a string.
SHEBANG = re.compile(rb"#!(?!/bin/sh)[^\n]*/\.venv/bin/python[\w.]*\n")
LONG_SHEBANG = re.compile(rb"#!/bin/sh\n'''exec' [^\n]*/bin/python[^\n]*\n' '''\n")
RELATIVE_SHEBANG = b"""#!/bin/sh
'''exec' "$(d=${0%/*}; [ -e "$d/../pyvenv.cfg" ] || d=$(dirname "$(readlink -f "$0")")
echo "$d")/python" "$0" "$@"
' '''
"""


def relocate() -> None:
    """Rewrite what holds an absolute path: programs, activation scripts, this project's own entry."""
    for program in (VENV / "bin").iterdir():
        if program.is_file() and not program.is_symlink():
            relocate_program(program)
    relocate_activation()
    for packages in VENV.glob("lib/python*/site-packages"):
        for info in own_entries(packages):
            relocate_entry(info)


def replace(file: Path, content: bytes) -> None:
    """Write a new file in the place of the old one, with the same permissions; if anything changed."""
    if file.read_bytes() == content:
        return
    new = file.with_name(f".{file.name}.new")
    new.write_bytes(content)
    new.chmod(file.stat().st_mode)
    new.replace(file)


def relocate_program(program: Path) -> None:
    """Its first line becomes independent of where it lies."""
    content = program.read_bytes()
    head = SHEBANG.match(content) or LONG_SHEBANG.match(content)
    if head:
        replace(program, RELATIVE_SHEBANG + content[head.end() :])


def relocate_activation() -> None:
    """Activation scripts name the folder of .venv; theirs is the one that `activate` says."""
    main = VENV / "bin" / "activate"
    text = main.read_text() if main.exists() else ""
    named = re.search(r"""^\s*(?:export )?VIRTUAL_ENV=["']?(/.*?)["']?$""", text, re.MULTILINE)
    if named is None or named[1] == str(VENV):
        return
    old = re.escape(named[1])
    for script in main.parent.glob("activate*"):
        text = re.sub(rf"(?<=[\"']){old}", lambda _: str(VENV), script.read_text())
        text = re.sub(rf"(?<![\"']){old}(?![\w.-])", lambda _: shlex.quote(str(VENV)), text)
        replace(script, text.encode())


def own_entries(packages: Path) -> Iterator[Path]:
    """The .dist-info of this project, under former names, too: installed in place, and not locked."""
    locked = tomllib.loads((ROOT / "poetry.lock").read_text()).get("package", [])
    others = {normalized(package["name"]) for package in locked}
    for source in packages.glob("*.dist-info/direct_url.json"):
        name = normalized(source.parent.name.partition("-")[0])
        in_place = json.loads(source.read_text()).get("dir_info", {}).get("editable")
        if in_place and name not in others and (source.parent / "RECORD").exists():
            yield source.parent


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def relocate_entry(info: Path) -> None:
    """What Python imports, and what Poetry and pip remove, of a project that is installed in place."""
    source, record = info / "direct_url.json", info / "RECORD"
    url = json.loads(source.read_text())
    old = Path(unquote(urlsplit(url["url"]).path))
    rows = [(inside(row[0]), *row[1:]) for row in csv.reader(record.read_text().splitlines())]
    for name, *_ in rows:
        if "/" not in name and name.endswith(".pth"):
            relocate_imports(info.parent / name, old)
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(rows)
    replace(record, table.getvalue().encode())
    replace(source, json.dumps(url | {"url": ROOT.as_uri()}).encode())


def inside(path: str) -> str:
    """A path of RECORD, relative to site-packages of this .venv: nothing outside is ever meant."""
    if not Path(path).is_absolute():
        return path
    before, _, after = path.rpartition("/site-packages/")
    return after if before else f"../../../bin/{Path(path).name}"


def relocate_imports(file: Path, old: Path) -> None:
    """The folders that are imported from, relative to where .pth files lie."""
    if file.exists():
        lines = [relocated(line, old, file.parent) for line in file.read_text().splitlines()]
        replace(file, "".join(f"{line}\n" for line in lines).encode())


def relocated(line: str, old: Path, packages: Path) -> str:
    """A line of a .pth file, relative to `packages` if it is a folder of the project in `old`."""
    folder = Path(line)
    if not folder.is_absolute() or not folder.is_relative_to(old):
        return line
    return relpath(ROOT / folder.relative_to(old), packages)


if __name__ == "__main__":
    if (VENV / "bin").is_dir():
        relocate()
