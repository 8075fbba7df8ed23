"""Services that the tests of one process share; each starts when the first test needs it."""

from collections.abc import Iterator

from scale.postgres import postgres
from scale.slurm import Slurm, slurm
from scale.stores import stores

import pytest


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The address of a PostgreSQL server."""
    with postgres() as address:
        yield address


@pytest.fixture(scope="session")
def remote_stores(
    postgres_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """The environment of those who use an MLflow server on PostgreSQL and S3, with studies in PostgreSQL."""
    with stores(tmp_path_factory.mktemp("stores"), postgres_server) as environment:
        yield environment


@pytest.fixture(scope="session")
def slurm_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A Slurm cluster of two nodes."""
    with slurm(tmp_path_factory.mktemp("slurm") / "slurm") as cluster:
        yield cluster
