"""Write the pages of docs/reference from the code: the settings, `Run`, and the commands of `lab`.

    .venv/bin/python scripts/make_reference.py

Types come from the code; descriptions from the comments in config/utils, from docstrings, and from the help
of the commands. tests/test_reference.py compares the pages with what this would write.
"""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from src.utils.config import sweep_settings
from src.utils.config.comments import class_comments, yaml_comments
from src.utils.config.json_schema import (
    TIERS,
    WORKERS,
    group_choices,
    tier_comments,
    tier_values,
)
from src.utils.config.trainer_arguments import RESERVED
from src.utils.config.type_words import type_in_words
from src.utils.config.worker_settings import ENGINES, RemoteWorkers
from src.utils.lab.cli import lab
from src.utils.paths import ROOT
from src.utils.settings import Settings, load_config

import griffe
import optuna
import typer
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf
from pydantic import TypeAdapter

PAGES = ROOT / "docs" / "reference"
WRITTEN = "<!-- Written by scripts/make_reference.py from the code: change it there. -->"
WIDTH = 92  # the longest signature in one line

# What an experiment may import: these names of a module, or all that are public
IMPORTS: dict[str, tuple[str, ...]] = {
    "experiment": ("experiment",),
    "settings": ("Settings", "StageSettings", "ModelSettings", "TrainingSettings"),
    "training": ("tracked_trainer", "best_checkpoint", "best_score"),
    "batches": ("Batch", "batch_loader"),
    "metrics": (),
    "figures": (),
    "folds": ("Split", "assign_folds", "training_rows"),
    "idx": (),
    "tracking": ("load_model", "data_of_run"),
    "averaged_model": ("AveragedModel",),
    "paths": ("ROOT",),
    "errors": ("UserError", "one_line"),
    "study.trial": ("Pruned",),
}
# What the engine uses of a run; the rest is for experiments
ENGINE = {
    *("client", "metrics", "start", "has_trainer", "seed_random", "prefix", "whole", "part_names"),
    *("ended_by", "first_step", "reported", "remote", "uploads", "heartbeat", "begin"),
    *("count_report", "log_dataset", "terminate", "close"),
}
ENVIRONMENT = {
    "MLFLOW_TRACKING_URI": "Where runs are recorded: the URL of an MLflow server or of a database. "
    "Without it, in `logs/mlruns/mlflow.db`.",
    "OPTUNA_STORAGE": "Where studies are kept, so that several machines share one: `postgresql://…`. "
    "Without it, in `logs/optuna/optuna.db`.",
    "JIKKEN_NOTIFY": "The setting `notify` of all runs and searches that you start.",
    "PIP_INDEX_URL": "Where `scripts/setup.sh`, `lab upgrade` and `lab rerun --packages` look for "
    "packages, where pip has no setting of its own.",
    "POETRY_PYPI_MIRROR_URL": "The same, in place of it.",
    "RAY_ADDRESS": "The Ray cluster of `workers=ray`: `head:6379`. Without it, the one of this machine. "
    "`workers.address` goes before it.",
    "CUDA_VISIBLE_DEVICES": "The GPUs that may be used: `0,1`. The jobs of a search lease one each.",
    "OMP_NUM_THREADS": "Threads of each process. Without it, jobs that run at the same time share "
    "the cores.",
    "GOMP_SPINCOUNT": "How long a thread waits for others before it sleeps. Without it, 5000: other "
    "processes then don't slow down a training.",
    "MLFLOW_DISABLE_TELEMETRY": "Whether MLflow sends nothing about its use. Without it, `true`.",
}
# Variables that the engine sets for its own processes, or that belong to Python, git and libraries
NOT_FOR_USERS = re.compile(
    "JIKKEN_(?!NOTIFY$)|HYDRA_|GIT_|PATH$|PIP_USER|LOCAL_RANK|PYTHONPATH|MLFLOW_(MAX_TRACES|SUPPRESS|ENABLE)"
    "|SLURM|MASTER_|TORCHELASTIC_"
)
# What is code in a comment: names with _ . = or /, numbers below zero, options, null
CODE = re.compile(
    r"(?<![\w`])([\w.]+='.*?'|\+?\w+[_.=/][\w.=/\[\],-]*\w\]?|-\w+|null|\{.*\})(?![\w`])"
)
VALUES = {"<path>": "PATH", "<int>": "NUMBER", "<int range>": "NUMBER", "<float>": "NUMBER"}


def main() -> None:
    """Write all pages."""
    for name, text in pages().items():
        (PAGES / name).write_text(text)


def pages() -> dict[str, str]:
    """The text of each page, by its file name."""
    made = {"settings.md": settings_page(), "run.md": run_page(), "lab.md": lab_page()}
    return {name: "\n\n".join(parts) + "\n" for name, parts in made.items()}


def settings_page() -> Iterator[str]:
    """The page of the settings that experiments share, of searches, and of the environment."""
    yield "# Settings"
    yield WRITTEN
    yield (
        "A setting is typed after the program, as in `learning_rate=0.002`, or has its value in the "
        "experiment's `config.yaml`. `--cfg job` prints all settings of a program. An experiment's own "
        "settings are in its `class Config`; these are the ones that it shares with others."
    )
    for tier, file in TIERS.items():
        yield from _tier(tier, file)
    yield "## Settings of workers"
    yield (
        "`workers=slurm` and the like choose where a search or a run is executed; without it that is this "
        "machine. `override /workers: slurm` among the defaults of a config.yaml does so for an experiment."
    )
    for kind in ENGINES:
        yield from _workers(kind)
    yield "## Settings of a search"
    yield "For `-m`. They are typed with their whole name: `hydra.sweeper.n_trials=50`."
    yield from _fields("hydra.sweeper", sweep_settings.SearchSweeperConf)
    for group, title in (
        ("sampler", "How the next values are chosen"),
        ("pruner", "When a trial is ended early"),
    ):
        yield f"### `hydra/sweeper/{group}`"
        yield f"{title}: `hydra/sweeper/{group}=NAME`; its settings are `hydra.sweeper.{group}.SETTING`."
        names = group_choices(f"hydra/sweeper/{group}")
        yield _list(_choice(group, name) for name in sorted(names, key="default".__ne__))
    yield "## Settings of the launcher"
    yield "It starts the trials of a search, and the members of a group."
    yield from _fields("hydra.launcher", sweep_settings.ForkLauncherConf)
    yield "## Environment variables"
    yield from _environment()


def _tier(tier: type[Settings], file: Path) -> Iterator[str]:
    yield f"## {_first_line(tier.__doc__).partition('.')[0]}"
    yield f"`class Config({tier.__name__})`, and `defaults: [/{file.stem}, _self_]` in config.yaml."
    own = {*tier.model_fields} - {*getattr(tier.__base__, "model_fields", ())}
    types, comments, values = _types(tier), tier_comments(tier), tier_values(tier)
    for name in comments:
        if name.partition(".")[0] in own:
            yield from _setting(
                name, types.get(name, {}), values.get(name, MISSING), comments[name]
            )
    if "trainer" in own:
        yield "These arguments of the Trainer belong to the run, and are refused:"
        yield _list(f"`{name}` {reason}" for name, (_, reason) in RESERVED.items())


def _workers(kind: type[RemoteWorkers]) -> Iterator[str]:
    """The settings of one engine: each with its type and value."""
    engine = kind.__name__.removesuffix("Workers").lower()
    file = WORKERS / f"{engine}.yaml"
    comments, values = yaml_comments(file.read_text()), load_config(file)
    types = kind.model_json_schema()["properties"]
    yield f"### `workers={engine}`"
    yield _sentence(_first_line(kind.__doc__).partition(": ")[2])
    yield _list(
        f"**`workers.{name}`**, {type_in_words(types[name])}, default `{_yaml(values[name])}`: "
        + CODE.sub(r"`\1`", _sentence(comments[name]))
        for name in comments
        if name != "engine"
    )


def _types(tier: type[Settings]) -> dict[str, Any]:
    """The JSON schema of each setting, by dotted name."""
    schema = tier.model_json_schema()
    trainer = schema.get("$defs", {}).get("TrainerArguments", {}).get("properties", {})
    return schema["properties"] | {f"trainer.{name}": node for name, node in trainer.items()}


def _fields(prefix: str, settings: type) -> Iterator[str]:
    """The settings of a dataclass; a config group has a section of its own."""
    comments = class_comments(Path(sweep_settings.__file__).read_text(), settings.__name__)
    types = get_type_hints(settings, include_extras=True)
    for field in fields(settings):
        if field.name in comments and field.default != MISSING:
            schema = TypeAdapter(types[field.name]).json_schema()
            yield from _setting(
                f"{prefix}.{field.name}", schema, field.default, comments[field.name]
            )


def _setting(name: str, schema: Mapping[str, Any], default: Any, comment: str) -> Iterator[str]:
    yield f"### `{name}`"
    kind = "" if type_in_words(schema) == "any value" else f"*{type_in_words(schema)}*"
    value = "" if default == MISSING else f"default `{_yaml(default)}`"
    yield " · ".join(filter(None, (kind, value)))
    yield _sentence(CODE.sub(r"`\1`", comment))


def _choice(group: str, name: str) -> str:
    """What Optuna says about a sampler or pruner, and its settings."""
    node = ConfigStore.instance().load(f"hydra/sweeper/{group}/{name}.yaml").node
    settings = {str(key): value for key, value in OmegaConf.to_container(node).items()}
    documented = f"{settings['_target_']} {OmegaConf.get_type(node).__doc__}"
    (kind, *_) = re.findall(r"\w+(?:Sampler|Pruner)", documented)
    text = getattr(getattr(optuna, f"{group}s"), kind).__doc__.strip().partition("\n\n")[0]
    text = re.sub(r"`(.*?) <.*?>`__", r"\1", " ".join(text.split()))
    values = {key: "" if value is None else f"={_yaml(value)}" for key, value in settings.items()}
    shown = [f"`{key}{value}`" for key, value in values.items() if key[0] != "_"]
    own = f" Settings: {', '.join(shown)}." if shown else ""
    return f"**`{name}`**: {_sentence(text)}{own}"


def _environment() -> Iterator[str]:
    known = {name for name in _variables() if not NOT_FOR_USERS.match(name)}
    if known != {*ENVIRONMENT}:
        raise SystemExit(f"ENVIRONMENT in {__file__}: {sorted(known ^ {*ENVIRONMENT})}")
    for name, text in ENVIRONMENT.items():
        yield f"### `{name}`"
        yield text


def _variables() -> Iterator[str]:
    """The environment variables that the code reads or sets."""
    for file in (ROOT / "src" / "utils").rglob("*.py"):
        text = file.read_text()
        yield from re.findall(r"oc\.env:(\w+)", text)
        for line in text.splitlines():
            if "environ" in line:
                yield from re.findall(r'"([A-Z][A-Z_]+)"', line)


def run_page() -> Iterator[str]:
    """The page of `Run`, and of all that an experiment may import."""
    run, part = _engine()["run"], _engine()["runs.part"]
    members = run["Run"].members | {
        name: one
        for name, one in part["Fit"].members.items()
        if name not in run["Run"].members or (one.is_attribute and one.annotation)
    }
    public = {name: one for name, one in members.items() if name[0] != "_"}
    comments = _comments(part["Fit"]) | _comments(run["Run"])
    attributes = {
        name: f"`run.{name}`{_kind(one)}: {_sentence(comments.get(name) or _docstring(one))}"
        for name, one in sorted(public.items(), key=lambda item: item[0] not in part["Fit"].members)
        if one.is_attribute
    }
    methods = {name: one for name, one in public.items() if one.is_function}
    yield "# Run"
    yield WRITTEN
    yield "What `main(cfg, run)` gets as `run`, and what an experiment may import from `src.utils`."
    yield "## `Run`"
    yield f"{_docstring(run['Run'])} Defined in {_file(run)}; what a part has, too, in {_file(part)}."
    yield "### Attributes"
    yield _list(text for name, text in attributes.items() if name not in ENGINE)
    for name, one in methods.items():
        if name not in ENGINE:
            yield from _function(one, f"run.{name}")
    yield "### Parts of a run"
    yield str(part.docstring.value)
    yield "### Used by the engine"
    yield "This is public, too, but no experiment needs it."
    engine = {
        name: f"`run.{name}()`: {_first_line(_docstring(one))}" for name, one in methods.items()
    }
    yield _list(text for name, text in (attributes | engine).items() if name in ENGINE)
    for module, names in IMPORTS.items():
        yield from _module(module, names)


@cache
def _engine() -> Any:
    """The package src.utils as griffe reads it, without importing it."""
    return griffe.load("src.utils", search_paths=[str(ROOT)], allow_inspection=False)


def _module(module: str, names: tuple[str, ...]) -> Iterator[str]:
    loaded = _engine()[module]
    own = {
        name: one
        for name, one in loaded.members.items()
        if not one.is_alias
        and name[0] != "_"
        and (name in names or (not names and not one.is_attribute))
    }
    yield f"## `src.utils.{module}`"
    yield f"```python\nfrom src.utils.{module} import {', '.join(own)}\n```"
    yield f"{_first_line(_docstring(loaded))} Defined in {_file(loaded)}."
    for name, one in own.items():
        if one.is_function:
            yield from _function(one, name)
        elif one.is_class:
            yield from _class(one)
        else:
            yield f"### `{name}`"
            yield f"`{name} = {one.value}`"


def _class(cls: Any) -> Iterator[str]:
    yield f"### `{cls.name}`"
    yield _docstring(cls)
    if cls.name.endswith("Settings"):
        yield "Its settings are described in [Settings](settings.md)."
    for name, one in cls.members.items():
        if one.is_function and name[0] != "_":
            yield from _function(one, f"{cls.name}.{name}")


def _function(one: Any, name: str) -> Iterator[str]:
    yield f"### `{name}`"
    yield f"```python\n{_signature(one, name)}\n```"
    for section in one.docstring.parse("google", warnings=False) if one.docstring else ():
        if section.kind.value == "text":
            yield section.value
        else:
            title = {"parameters": "Args"}.get(section.kind.value, section.kind.value.capitalize())
            yield f"**{title}**"
            yield _list(map(_item, section.value))


def _item(item: Any) -> str:
    """An argument, a result or an error, with its description."""
    name = getattr(item, "name", "") or str(item.annotation or "")
    return f"`{name}`: {' '.join(item.description.split())}"


def _signature(one: Any, name: str) -> str:
    parameters = [argument for argument in one.parameters if argument.name != "self"]
    texts = [_argument(argument) for argument in parameters]
    kinds = [argument.kind.value for argument in parameters]
    if "keyword-only" in kinds and "variadic positional" not in kinds:
        texts.insert(kinds.index("keyword-only"), "*")
    end = f") -> {one.returns}" if one.returns else ")"
    line = f"{name}({', '.join(texts)}{end}"
    return (
        line
        if len(line) <= WIDTH
        else "\n    ".join([f"{name}(", *(f"{text}," for text in texts)]) + f"\n{end}"
    )


def _argument(argument: Any) -> str:
    star = {"variadic positional": "*", "variadic keyword": "**"}.get(argument.kind.value, "")
    kind = f": {argument.annotation}" if argument.annotation else ""
    default = "" if star or argument.default is None else f" = {argument.default}".replace("'", '"')
    return f"{star}{argument.name}{kind}{default}"


def _kind(attribute: Any) -> str:
    """The type of an attribute, as declared or as its value has it."""
    if attribute.annotation:
        return f" (`{attribute.annotation}`)"
    try:
        return f" (`{type(ast.literal_eval(str(attribute.value))).__name__}`)"
    except ValueError:
        return ""


def _comments(cls: Any) -> dict[str, str]:
    return class_comments(cls.filepath.read_text(), cls.name)


def _docstring(one: Any) -> str:
    return str(one.docstring.value) if one.docstring else ""


def _file(module: Any) -> str:
    return f"`{module.filepath.relative_to(ROOT)}`"


def lab_page() -> Iterator[str]:
    """The page of the commands of `lab`, by panels of its help."""
    app: Any = typer.main.get_command(lab)
    commands = [command for command in app.commands.values() if not command.hidden]
    yield "# lab"
    yield WRITTEN
    yield app.help
    yield "Type `poetry run lab …` or `.venv/bin/lab …`; `lab COMMAND --help` shows what is here."
    for panel in dict.fromkeys(command.rich_help_panel for command in commands):
        yield f"## {panel}"
        for command in commands:
            if command.rich_help_panel == panel:
                yield from _command(command)


def _command(command: Any) -> Iterator[str]:
    context = command.make_context(command.name, [], resilient_parsing=True)
    options, *arguments = command.collect_usage_pieces(context)
    usage = re.sub("[{}]", "", " ".join([command.name, *arguments, options]))
    yield f"### `lab {command.name}`"
    yield command.help
    yield f"```text\nlab {usage}\n```"
    records = [one.get_help_record(context) for one in command.params]
    lines = dict.fromkeys(_parameter(*record) for record in records if record)  # RUN once
    yield _list(lines)


def _parameter(names: str, text: str) -> str:
    """`-e, --experiment <str>` and its help, as typer shows them."""
    names, _, kind = names.partition(" <")
    value = f" {VALUES.get(f'<{kind}', 'TEXT')}" if kind and names[0] == "-" else ""
    text, _, more = text.partition("  [")
    default = re.match(r"default: ([^;\]]+)", more)
    return f"`{names}{value}`: {text}{f' Default: `{default[1]}`.' if default else ''}"


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '…')) else '.'}"


def _yaml(value: Any) -> str:
    """A value as YAML has it."""
    text = OmegaConf.to_yaml({"value": value}).strip().removeprefix("value: ")
    return text.strip("'") or '""'


if __name__ == "__main__":
    main()
