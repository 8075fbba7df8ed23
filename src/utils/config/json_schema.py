"""The JSON schema of an experiment's settings, by which editors complete and check its config.yaml.

It is the file `.schema.json` beside config.yaml, whose first line names it for the YAML language server of
VS Code, Neovim and others. Types and ranges come from the experiment's settings class, descriptions from the
comments beside the values. git ignores the file: `lab schema` writes it, and a run brings it up to date.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, get_type_hints

from src.utils.config import sweep_settings
from src.utils.config.comments import class_comments, yaml_comments
from src.utils.config.trainer_arguments import RESERVED, argument_descriptions
from src.utils.config.type_words import type_in_words
from src.utils.files import replace_file
from src.utils.paths import ROOT, Experiment
from src.utils.settings import (
    ModelSettings,
    Settings,
    StageSettings,
    TrainingSettings,
    flatten,
    load_config,
)

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

SCHEMA = ".schema.json"
MODELINE = f"# yaml-language-server: $schema={SCHEMA}"
TIERS: dict[type[Settings], Path] = {  # where the values of each tier are
    Settings: ROOT / "config" / "utils" / "settings.yaml",
    StageSettings: ROOT / "config" / "utils" / "stage.yaml",
    ModelSettings: ROOT / "config" / "utils" / "model.yaml",
    TrainingSettings: ROOT / "config" / "utils" / "training.yaml",
}
WORKERS = ROOT / "config" / "utils" / "workers"
# A config group that a tier brings: `  - /workers: local   # where it runs`
GROUP = re.compile(r"^  - /(\w+): (\w+) +# (.*)$", re.MULTILINE)
DEFAULTS = (
    "Where the values come from that are not in this file, in this order; `_self_` is this file."
)

Schema = dict[str, Any]

ANNOTATIONS = ("description", "default", "examples", "deprecated")
# Text in the place of a value: an interpolation, a value that is still missing, and what OmegaConf reads as a
# number or a truth value, but newer YAML as text
ANY_VALUE = [r"\$\{", r"^\?\?\?$"]
LIKE_TYPE = {
    "boolean": r"^([Yy]es|YES|[Nn]o|NO|[Oo]n|ON|[Oo]ff|OFF)$",
    "integer": r"^[-+]?\d[\d_]*$",
    "number": r"^[-+]?[\d_]*\.?[\d_]*([eE][-+]?\d+)?$",
}
# Values to choose from, where Lightning allows others, too
EXAMPLES: dict[str, list[Any]] = {
    "accelerator": ["auto", "cpu", "gpu", "mps", "tpu"],
    "strategy": ["auto", "ddp", "fsdp", "deepspeed"],
    "devices": [1, -1, "auto"],
    "precision": ["32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true"],
    "gradient_clip_algorithm": ["norm", "value"],
    "profiler": ["simple", "advanced", "pytorch"],
}


def write_schema(experiment: Experiment, settings_class: type[Settings]) -> None:
    """Write the schema of an experiment beside its config.yaml, unless it is there and up to date."""
    file = experiment.config / SCHEMA
    text = json.dumps(settings_schema(experiment, settings_class), ensure_ascii=False, indent=1)
    if file.exists() and file.read_text() == text:
        return
    with replace_file(file) as draft:  # an editor never reads half of it
        draft.write_text(text)


def refresh_schema(experiment: Experiment, settings_class: type[Settings]) -> None:
    """Bring the schema up to date, if there is one and its folder can be written."""
    if (experiment.config / SCHEMA).exists():
        with suppress(OSError):
            write_schema(experiment, settings_class)


def settings_schema(experiment: Experiment, settings_class: type[Settings]) -> Schema:
    """The schema of an experiment's config.yaml."""
    generated = settings_class.model_json_schema(schema_generator=LenientJsonSchema)
    own = yaml_comments((experiment.config / "config.yaml").read_text())
    comments = own | tier_comments(settings_class)
    values = tier_values(settings_class)
    settings = {
        name: _value(node) | _told(name, comments, values)
        for name, node in generated["properties"].items()
    }
    if "workers" in settings:
        settings["workers"] |= _workers(generated["$defs"])
    if issubclass(settings_class, TrainingSettings):
        arguments = generated["$defs"].pop("TrainerArguments")["properties"]
        settings["trainer"] |= {"anyOf": [_trainer(arguments, comments, values), _text()]}
    return {
        "type": "object",
        "required": ["defaults"],
        "additionalProperties": generated.get("additionalProperties", True),
        "properties": {"defaults": _defaults(settings_class), "hydra": _hydra(), **settings},
        "$defs": {name: _inner(node) for name, node in generated.get("$defs", {}).items()},
    }


def tier_comments(settings_class: type[Settings]) -> dict[str, str]:
    """What config/utils says about the shared settings that a class has, by dotted name."""
    found: dict[str, str] = {}
    for file in _tier_files(settings_class):
        text = file.read_text()
        found |= {name: comment for name, _, comment in GROUP.findall(text)} | yaml_comments(text)
    return found


def tier_values(settings_class: type[Settings]) -> dict[str, Any]:
    """The values in config/utils of the shared settings that a class has, by dotted name."""
    found: dict[str, Any] = {}
    for file in _tier_files(settings_class):
        values = OmegaConf.to_container(load_config(file))
        assert isinstance(values, dict)
        found |= {name: value for name, value, _ in GROUP.findall(file.read_text())}
        found |= flatten({str(name): value for name, value in values.items()})
    return found


def _tier_files(settings_class: type[Settings]) -> Iterator[Path]:
    return (file for tier, file in TIERS.items() if issubclass(settings_class, tier))


class LenientJsonSchema(GenerateJsonSchema):
    """JSON schemas that allow anything where JSON can't describe what Python code accepts."""

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> Schema:
        return {}

    def function_before_schema(self, schema: Any) -> Schema:
        """A function that sees a value first may accept any; one that sees all settings changes no type."""
        is_class = schema["schema"]["type"] == "model"
        return super().function_before_schema(schema) if is_class else {}

    def function_wrap_schema(self, schema: Any) -> Schema:
        is_class = schema["schema"]["type"] == "model"
        return super().function_wrap_schema(schema) if is_class else {}


def _value(node: Schema) -> Schema:
    """The schema of a value that may also be an interpolation."""
    inner = _inner(node)
    outer = {key: inner.pop(key) for key in ANNOTATIONS if key in inner}
    if not inner:
        return outer | {"title": type_in_words(node)}
    choices = inner["anyOf"] if [*inner] == ["anyOf"] else [inner]
    types = {str(choice.get("type")) for choice in choices}
    return outer | {"title": type_in_words(node), "anyOf": [*choices, _text(types)]}


def _text(types: Collection[str] = ()) -> Schema:
    patterns = [*ANY_VALUE, *(LIKE_TYPE[name] for name in LIKE_TYPE if name in types)]
    return {"title": "interpolation", "type": "string", "pattern": "|".join(patterns)}


def _inner(node: Schema) -> Schema:
    """A schema in which the values below it may be interpolations."""
    node = {key: value for key, value in node.items() if key != "title"}
    for key in ("properties", "patternProperties"):
        if key in node:
            node[key] = {name: _value(value) for name, value in node[key].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), Mapping):
            node[key] = _value(node[key])
    for key in ("anyOf", "oneOf", "prefixItems"):
        if key in node:
            node[key] = [_inner(value) for value in node[key]]
    if node.get("type") == "string" and "enum" not in node and "const" not in node:
        node["type"] = ["string", "number"]  # a number becomes text
    return node


def _told(name: str, comments: Mapping[str, str], values: Mapping[str, Any]) -> Schema:
    """Description and default value of a setting."""
    description = {"description": comments[name]} if name in comments else {}
    return description | ({"default": values[name]} if name in values else {})


def _workers(kinds: Mapping[str, Schema]) -> Schema:
    """The schema of the settings of workers: config.yaml may have a few of them, of the kind it chooses."""
    names = [name for name in kinds if name.endswith("Workers")]
    for name in names:
        kinds[name].pop("required", None)
    return {"anyOf": [*({"$ref": f"#/$defs/{name}"} for name in names), _text()]}


def _trainer(
    checked: Mapping[str, Schema], comments: Mapping[str, str], values: Mapping[str, Any]
) -> Schema:
    """The schema of the arguments of Lightning's Trainer, of which `checked` have types of their own."""
    described = argument_descriptions()
    comments = {**{f"trainer.{name}": text for name, text in described.items()}, **comments}
    properties: dict[str, Schema] = {}
    for name in described:
        if name in RESERVED:
            allowed, reason = RESERVED[name]
            told = {"description": f"{name} {reason}", "doNotSuggest": True}
            properties[name] = {"enum": list(allowed)} | told
            continue
        usual = {"anyOf": [{"enum": EXAMPLES[name]}, {}]} if name in EXAMPLES else {}
        node = _value(checked.get(name, usual))
        properties[name] = node | _told(f"trainer.{name}", comments, values)
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _defaults(settings_class: type[Settings]) -> Schema:
    """The schema of Hydra's list of defaults: what is usual in it is suggested, anything is allowed."""
    tiers = [f"/{file.stem}" for file in _tier_files(settings_class)][::-1]
    choices = {
        f"override /hydra/sweeper/{group}": {"enum": group_choices(f"hydra/sweeper/{group}")}
        for group in ("sampler", "pruner")
    }
    choices["override /workers"] = {"enum": sorted(file.stem for file in WORKERS.glob("*.yaml"))}
    items = [{"enum": [*tiers, "_self_"]}, {"type": "string"}]
    items += [{"type": "object", "properties": choices}]
    return {"type": "array", "description": DEFAULTS, "items": {"anyOf": items}}


def group_choices(group: str) -> list[str]:
    """The names to choose from in a config group of Hydra, such as hydra/sweeper/sampler."""
    sweep_settings.register()
    names = (name.removesuffix(".yaml") for name in ConfigStore.instance().list(group))
    return [name for name in names if name != "motpe"]  # Optuna has no such sampler any more


def _hydra() -> Schema:
    nodes = {
        "sweeper": sweep_settings.SearchSweeperConf,
        "launcher": sweep_settings.ForkLauncherConf,
    }
    properties = {
        name: {"type": "object", "properties": _fields(settings)}
        for name, settings in nodes.items()
    }
    return {"type": "object", "description": "Hydra's own settings.", "properties": properties}


def _fields(settings: type) -> Schema:
    """The schemas of the fields of a dataclass, without those that Hydra reads by itself."""
    file = Path(sweep_settings.__file__)
    comments = class_comments(file.read_text(), settings.__name__)
    types = get_type_hints(settings, include_extras=True)
    return {
        name: {"description": comment} | _value(TypeAdapter(types[name]).json_schema())
        for name, comment in comments.items()
    }
