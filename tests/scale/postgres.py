"""A PostgreSQL server for tests."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from scale.service import free_ports, need, service, wait_for

import psycopg

PLACES = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
INITDB = shutil.which("initdb", path=os.pathsep.join([os.environ["PATH"], *PLACES]))
THEIRS = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}  # root may not


@contextmanager
def postgres() -> Iterator[str]:
    """The address of a server without databases."""
    need(INITDB, "PostgreSQL")
    assert INITDB
    with TemporaryDirectory() as place:
        folder, (port,) = Path(place), free_ports(1)
        if THEIRS:
            shutil.chown(folder, **THEIRS)
        make = [INITDB, "-D", folder, "--auth=trust", "--username=postgres", "--no-sync"]
        subprocess.run(make, check=True, capture_output=True, cwd="/", **THEIRS)
        program = str(Path(INITDB).with_name("postgres"))
        command = [program, "-D", place, "-k", place, f"--port={port}", "--fsync=off"]
        with service(command, folder, **THEIRS) as process:
            address = f"postgresql://postgres@127.0.0.1:{port}"
            wait_for(process, lambda: answers(address))
            yield address
            process.send_signal(signal.SIGINT)  # without waiting for whoever is still connected
            process.wait(30)


def answers(address: str) -> bool:
    try:
        psycopg.connect(address).close()
    except psycopg.OperationalError:
        return False
    return True


def create_database(server: str, name: str) -> str:
    """Create an empty database; returns its address."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{server}/{name}"
