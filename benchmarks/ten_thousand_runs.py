"""How long `lab` takes on a store of ten thousand runs.

    poetry run python benchmarks/ten_thousand_runs.py [RUNS]

The store is made in a temporary folder, by plain SQL, with as many params, metrics and tags as a run of
model01 has. Each command is timed as it is typed, from process start to end: the best of three.
"""

import os
import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

ROOT = Path(__file__).resolve().parents[1]
PARAMS = ["seed", "max_epochs", "hidden", "dropout", "learning_rate", "weight_decay", "batch_size"]
PARAMS += ["network", "feature", "compile", "trainer.max_epochs", "trainer.accelerator"]
PARAMS += ["trainer.devices", "trainer.strategy", "trainer.precision"]
METRICS = [f"{split}_{what}" for split in ("train", "val", "test") for what in ("loss", "acc")]
METRICS += ["lr", "epoch", "epoch_seconds", "samples_per_second"]
METRICS += [f"system/{name}" for name in ("cpu", "memory", "disk", "read", "written")]
COMMANDS = {
    "lab --help": ["--help"],
    "lab runs": ["runs"],
    "lab runs --sort val_acc": ["runs", "--sort", "val_acc"],
    "lab runs --where 'learning_rate>0.001' --where status=finished": [
        *["runs", "--where", "learning_rate>0.001", "--where", "status=finished"]
    ],
    "lab runs --experiment model01 --sort val_acc --limit 200": [
        *["runs", "--experiment", "model01", "--sort", "val_acc", "--limit", "200"]
    ],
    "lab runs --json --limit 0": ["runs", "--json", "--limit", "0"],
    "lab show latest": ["show", "latest"],
    "lab best model01": ["best", "model01"],
    "lab diff latest model01/best": ["diff", "latest", "model01/best"],
}


def fill(database: Path, count: int) -> None:
    """Runs of two experiments, one of them every minute until now."""
    draw = random.Random(0)
    store = sqlite3.connect(database)
    for number in (1, 2):
        location = f"{database.parent}/model/model0{number}"
        row = (number, f"model/model0{number}", location, "active", 0, 0, "default")
        store.execute("INSERT INTO experiments VALUES (?,?,?,?,?,?,?)", row)
    for number in range(count):
        run_id, experiment = uuid4().hex, number % 2 + 1
        began = int(time.time() * 1000) - (count - number) * 60_000
        location = f"{database.parent}/model/model0{experiment}/{run_id}/artifacts"
        name, status = f"run-{number}", draw.choices(["FINISHED", "FAILED"], [9, 1])[0]
        store.execute(
            "INSERT INTO runs VALUES (?,?,'UNKNOWN','','','me',?,?,?,'','active',?,?,NULL)",
            (run_id, name, status, began, began + 50_000, location, experiment),
        )
        params = {name: str(draw.choice([0, 1, 2, "auto"])) for name in PARAMS}
        params["learning_rate"] = str(draw.uniform(1e-4, 1e-2))
        insert = "INSERT INTO params VALUES (?,?,?)"
        store.executemany(insert, [(key, value, run_id) for key, value in params.items()])
        metrics = [(key, draw.random(), began, 1, 0, run_id) for key in METRICS]
        store.executemany("INSERT INTO latest_metrics VALUES (?,?,?,?,?,?)", metrics)
        tags = {"mlflow.runName": name, "git.dirty": draw.choice(["true", "false"])}
        tags |= {"mlflow.note.content": f"question {number % 50}", f"tag.t{number % 7}": "true"}
        tags |= {
            "hydra.output": f"outputs/{number}",
            "command": "python src/model/…",
            "data.source": "full",
        }
        insert = "INSERT INTO tags VALUES (?,?,?)"
        store.executemany(insert, [(key, value, run_id) for key, value in tags.items()])
    store.commit()
    store.close()


def seconds(arguments: list[str]) -> float:
    began = time.monotonic()
    command = [sys.executable, "-m", "src.utils.lab.cli", *arguments]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def main(count: int) -> None:
    with TemporaryDirectory() as folder:
        database = Path(folder) / "logs" / "mlruns" / "mlflow.db"
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{database}"
        subprocess.run([sys.executable, "-m", "src.utils.store.mlflow"], cwd=ROOT, check=True)
        fill(database, count)
        print(
            f"{count:,} runs, {database.stat().st_size / 1e6:.0f} MB; seconds, the best of three\n"
        )
        for name, arguments in COMMANDS.items():
            print(f"{min(seconds(arguments) for _ in range(3)):6.2f}  {name}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
