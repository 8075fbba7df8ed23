"""The structure of the engine: what may know of what, and where things are found."""

import ast
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT, Lab
from mnist import needed

SRC = ROOT / "src"
SHARED = sorted((SRC / "utils").rglob("*.py"))
CLI = SRC / "utils" / "lab" / "cli.py"
COMMANDS = [CLI, *(file for file in SHARED if file.parent == CLI.parent / "commands")]
CONTRACT = (
    "_data/data",
    "_data/feature",
    "config",
    "diary",
    "logs",
    "notebooks",
    "outputs",
)


ARCHITECTURE = ROOT / "docs" / "architecture.md"
LONGEST_FILE = 350  # lines
# Names of earlier versions, and where they are told of
EARLIER_NAMES = (
    *("src.utils.execution", "src.utils.layout", "src.utils.score", "src.utils.pictures"),
    *("run.picture", "run.fact", "run.here", "fork=true", " resume=latest"),
)
TOLD_OF = {"decisions.md", "test_structure.py", "test_earlier_versions.py", "earlier_versions.py"}


def ours(module: str) -> bool:
    return module.count(".") > 1 and module.startswith("src.utils.")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(file: Path) -> Iterator[str]:
    """The dotted names that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def imported_files(file: Path, known: Iterable[str]) -> Iterator[str]:
    """Those of the known modules that a file imports, `from src.utils.runs import provenance` among them."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from (names & {*known}) or ({node.module} & {*known})


@pytest.mark.parametrize("file", SHARED, ids=name)
def test_shared_imports(file: Path) -> None:
    """What experiments share imports no experiment."""
    assert not [m for m in imported(file) if m.startswith(".") or re.match(r"src\.(?!utils\b)", m)]


def rooms() -> dict[str, str]:
    """By file or folder of src/utils (and src/model/model01), its room in the picture of the architecture."""
    nodes = re.findall(r'^    (\w+)\["(.*)"\]$', ARCHITECTURE.read_text(), re.MULTILINE)
    return {part.strip("/ "): room for room, parts in nodes for part in parts.split(",")}


def room_of(module: str) -> str:
    """`store` of `src.utils.store.reader`, `paths` of `src.utils.errors`."""
    part = module.split(".")[2]
    known = rooms()
    return known.get(part) or known[f"{part}.py"]


def drawn() -> set[tuple[str, str]]:
    """The arrows of the picture."""
    arrows = re.findall(r"^    (\w+) --> (\w+)$", ARCHITECTURE.read_text(), re.MULTILINE)
    return {(source, target) for source, target in arrows}


def below(room: str, arrows: set[tuple[str, str]]) -> set[str]:
    """All rooms that a path of arrows leads to."""
    found: set[str] = set()
    waiting = {target for source, target in arrows if source == room}
    while waiting:
        found |= waiting
        waiting = {target for source, target in arrows if source in waiting} - found
    return found


def imports() -> set[tuple[str, str]]:
    """From which room to which there is an import."""
    found = set()
    for file in SHARED:
        if file.name == "__init__.py":
            continue
        own = room_of(str(file.relative_to(ROOT).with_suffix("")).replace("/", "."))
        found |= {(own, room_of(module)) for module in imported(file) if ours(module)}
    files = (SRC / "model" / "model01").glob("*.py")
    found |= {("model", room_of(m)) for file in files for m in imported(file) if ours(m)}
    return {(source, target) for source, target in found if source != target}


def test_every_file_has_a_room() -> None:
    """Each file and folder of src/utils is in the picture of docs/architecture.md, and nothing else is."""
    there = {path.name for path in (SRC / "utils").iterdir() if path.name[:2] != "__"} - {"LICENSE"}
    assert {part for part in rooms() if not part.startswith("src/")} == there


def test_imports_follow_the_picture() -> None:
    """Inside src/utils, too, what lies lower imports nothing that lies above it: each import is along the
    arrows of docs/architecture.md, which have no circle."""
    arrows = drawn()
    assert not [room for room, _ in arrows if room in below(room, arrows)]
    known = imports()
    assert not [(source, target) for source, target in known if target not in below(source, arrows)]


def test_no_circles() -> None:
    """No two files of src/utils import each other, on whatever way, and however late."""
    files = {str(file.relative_to(ROOT).with_suffix("")).replace("/", "."): file for file in SHARED}
    arrows = {(own, name) for own, file in files.items() for name in imported_files(file, files)}
    assert len(arrows) > len(files)
    assert not [own for own in files if own in below(own, arrows)]


@needed
def test_the_picture_has_no_arrow_too_many() -> None:
    """Each arrow of docs/architecture.md is an import, and none that other arrows lead to as well."""
    arrows = drawn()
    assert arrows <= imports()
    assert not [one for one in arrows if one[1] in below(one[0], arrows - {one})]


def test_the_page_names_what_is_there() -> None:
    """Each file that docs/architecture.md names is there, with the functions and classes named beside it."""
    text = ARCHITECTURE.read_text()
    steps = re.findall(r"^\d+\. (.*(?:\n   .*)*)", text, re.MULTILINE)
    assert len(steps) >= 8
    for step in steps:
        files = re.findall(r"`(src/[\w/]+\.py)`", step)
        assert files
        code = "".join((ROOT / file).read_text() for file in files)
        names = re.findall(r"`@?(?:\w+\.)*(\w+)(?:\(\))?`", re.sub(r"`src/.*?`", "", step))
        assert [one for one in names if not re.search(rf"\b{one}\b", code)] == []


@pytest.mark.parametrize("file", SHARED, ids=name)
def test_length(file: Path) -> None:
    """No file of src/utils is so long that one loses one's way in it."""
    assert len(file.read_text().splitlines()) <= LONGEST_FILE


def test_commands_have_files() -> None:
    """A file that serves a command of `lab` bears the command's name."""
    text = "".join(file.read_text() for file in COMMANDS)
    commands = set(re.findall(r"@commands\.command\(\)\ndef (\w+)\(", text))
    assert len(commands) > 8
    assert commands - {file.stem for file in SHARED if file.parent.name == "lab"} == {
        "best"
    }  # is show


@pytest.mark.parametrize("earlier", EARLIER_NAMES)
def test_earlier_names(earlier: str) -> None:
    """What has been renamed is renamed everywhere: in code, tests, settings, notebooks and pages."""
    folders = [ROOT / name for name in ("src", "config", "docs", "notebooks", "scripts", "tests")]
    files = [file for folder in folders for file in folder.rglob("*.*") if file.suffix != ".pyc"]
    files = [file for file in files if file.is_file() and file.suffix != ".png"]
    files += [ROOT / "README.md", ROOT / "README.ja.md"]
    assert [
        file for file in files if file.name not in TOLD_OF and earlier in file.read_text()
    ] == []


@pytest.mark.parametrize("file", SHARED, ids=name)
def test_docstrings(file: Path) -> None:
    """Every file of src/utils says what it is for, and so does every public function and class."""
    tree = ast.parse(file.read_text())
    public = [
        n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name[0] != "_"
    ]
    assert ast.get_docstring(tree)
    assert [node.name for node in public if not ast.get_docstring(node)] == []


def public_functions(file: Path) -> Iterator[ast.FunctionDef]:
    """The public functions of a file, and the public methods of its public classes."""
    waiting: list[ast.stmt] = list(ast.parse(file.read_text()).body)
    for node in waiting:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name[0] != "_":
            if isinstance(node, ast.ClassDef):
                waiting += node.body
            else:
                yield node


@pytest.mark.parametrize("file", [file for file in SHARED if file not in COMMANDS], ids=name)
def test_documented_errors(file: Path) -> None:
    """A public function that raises a UserError says so, and when; of a hook its class says it. (Docstrings
    of commands are their help.)"""
    silent = []
    for function in public_functions(file):
        raised = [one.exc for one in ast.walk(function) if isinstance(one, ast.Raise)]
        names = {
            one.func.id
            for one in raised
            if isinstance(one, ast.Call) and isinstance(one.func, ast.Name)
        }
        if (
            "UserError" in names
            and function.name[:3] != "on_"
            and "Raises:" not in (ast.get_docstring(function) or "")
        ):
            silent.append(function.name)
    assert silent == []


def test_nouns() -> None:
    """No file is named for having no subject."""
    vague = {"utils.py", "common.py", "helpers.py", "misc.py", "base.py"}
    assert not [file for file in SRC.rglob("*.py") if file.name in vague]


def test_folders_of_the_contract(clone: Lab) -> None:
    """The folders that runs fill exist in a fresh clone, each with a line on what goes there."""
    assert [f for f in CONTRACT if not (ROOT / f / "README.md").is_file()] == []
    assert all((ROOT / folder).is_dir() for folder in CONTRACT)


@pytest.mark.parametrize(
    "made",
    [
        "_data/data/dataset01/manifest.json",
        "_data/feature/feature01/tensors.safetensors",
        "_data/data/.dataset01.draft/x",
        "logs/mlruns/mlflow.db",
        "logs/logging_/model/model01/2026-01-01/x.log",
        "outputs/model/model01/x",
        "multirun/model/model01/x",
        "src/utils/__pycache__/x.pyc",
    ],
)
def test_git_ignores_what_runs_make(clone: Lab, made: str) -> None:
    """What runs make is never committed by accident; what explains the folder is."""
    assert clone.git("check-ignore", made)
    readme = (
        Path(*Path(made).parts[:2] if made.startswith("_data") else Path(made).parts[:1])
        / "README.md"
    )
    command = ["git", "-C", clone.root, "check-ignore", "--quiet", readme]
    assert subprocess.run(command, check=False).returncode == 1


@needed
@pytest.mark.parametrize("readme", ["README.md", "README.ja.md"])
def test_readme_commands_exist(readme: str) -> None:
    """Every script, program and notebook that a README names is there, the two commands among them."""
    text = (ROOT / readme).read_text()
    named = set(re.findall(r"(?:scripts|src|notebooks|docs|benchmarks)/[\w/]+(?:\.\w+)+", text))
    assert {"scripts/run.sh", "scripts/test.sh"} <= named
    copies = re.compile(r"0[2-9]/")  # what a reader is about to make
    assert [path for path in named if not copies.search(path) and not (ROOT / path).exists()] == []
    assert len(text.splitlines()) < 200


@pytest.mark.parametrize("readme", ["README.md", "README.ja.md"])
def test_readme_makes_each_experiment_once(readme: str) -> None:
    """Typed from top to bottom, no command of a README makes what one above it has made already."""
    text = (ROOT / readme).read_text()
    made = re.findall(r"cp -r src/model/model01 src/model/(\w+)|lab new (\w+)", text)
    names = [copied or forked for copied, forked in made]
    assert len(names) == len(set(names)) > 0


@pytest.mark.parametrize("readme", ["README.md", "README.ja.md"])
def test_readme_names_the_environment(readme: str) -> None:
    """Every Python program is typed so that the environment's is called, with and without Poetry."""
    text = (ROOT / readme).read_text()
    console = "".join(re.findall(r"```console\n(.*?)```", text, re.DOTALL))
    commands = re.findall(r"^\$ (.*)$", console, re.MULTILINE)
    assert not [command for command in commands if re.match(r"(python|lab|mlflow)\b", command)]
    assert all(f"`.venv/bin/{program} …`" in text for program in ("python", "lab", "mlflow"))
