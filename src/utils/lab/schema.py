"""`lab schema`: editors complete and check every config.yaml.

It writes the schemas of all experiments (`src/utils/config/json_schema.py`) in one process. An experiment is
imported only if its settings class can't be read without.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from src.utils.config.json_schema import MODELINE, SCHEMA, write_schema
from src.utils.config.settings_class import read_settings_class
from src.utils.errors import one_line
from src.utils.lab.new import list_experiments
from src.utils.paths import Experiment, display_path
from src.utils.runs.source_code import import_file
from src.utils.settings import Settings


@dataclass(frozen=True)
class WrittenSchema:
    """The schema of an experiment; or why it has none."""

    experiment: Experiment
    problem: str | None = None

    @property
    def is_used(self) -> bool:
        """Whether config.yaml names the schema."""
        file = self.experiment.config / "config.yaml"
        return file.exists() and f"$schema={SCHEMA}" in file.read_text()

    def as_dict(self) -> dict[str, object]:
        """For programs."""
        file = None if self.problem else self.experiment.config / SCHEMA
        return {
            "experiment": str(self.experiment),
            "schema": file,
            "problem": self.problem,
            "is_used": self.is_used,
        }


def write_schemas() -> list[WrittenSchema]:
    """Write the schema of each experiment beside its config.yaml."""
    return [_write(experiment) for experiment in list_experiments()]


def _write(experiment: Experiment) -> WrittenSchema:
    try:
        write_schema(experiment, find_settings_class(experiment))
    except (Exception, SystemExit) as error:  # whatever importing an experiment may raise
        return WrittenSchema(experiment, one_line(error) or type(error).__name__)
    return WrittenSchema(experiment)


def find_settings_class(experiment: Experiment) -> type[Settings]:
    """The class of an experiment's settings.

    Raises:
        UserError: the experiment has no program.
    """
    program = experiment.program()
    found = read_settings_class(program)
    if found is not None:
        return found
    module = import_file(program, f"{experiment.stage}_{experiment.name}_{program.stem}")
    programs = [value for value in vars(module).values() if hasattr(value, "settings_class")]
    settings_class: type[Settings] = programs[-1].settings_class
    return settings_class


def print_schemas(schemas: list[WrittenSchema]) -> None:
    """Print what was written, and what is to be done by hand."""
    written = sum(one.problem is None for one in schemas)
    print(
        f"{written} schemas in config/: editors complete and check each config.yaml by its {SCHEMA}"
    )
    for line in _advice(schemas):
        print(line)


def _advice(schemas: list[WrittenSchema]) -> Iterator[str]:
    for schema in schemas:
        if schema.problem is not None:
            yield f"{schema.experiment}: no schema: {schema.problem}"
        elif not schema.is_used:
            file = display_path(schema.experiment.config / "config.yaml")
            yield f"{file} should begin with the line: {MODELINE}"
