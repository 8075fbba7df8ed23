"""What a person sees when a run is over: its figures, and the commands that come next."""

from datetime import timedelta

from src.utils.execution import commands
from src.utils.execution.wording import duration, figure
from src.utils.run import Run

from rich import get_console
from rich.table import Table

SHOWN = ("test_acc", "test_loss", "val_acc", "val_loss", "train_acc", "train_loss")


def say_summary(run: Run, seconds: float) -> None:
    """Print the run's last metrics, its id, and how to browse, reload, search and copy."""
    title = f"{run.here}: {run.name}, {duration(timedelta(seconds=seconds))}"
    figures = Table(title=title, title_justify="left", show_header=False)
    latest = run.metrics.latest
    for name in [name for name in SHOWN if name in latest]:
        figures.add_row(name, figure(latest[name]))
    figures.add_row("run id", run.id)
    get_console().print(figures)
    commands.say(
        {
            "browse": "bash scripts/mlflow_ui.sh",
            "reload": commands.reload(run.id[:8]),
            "search": f"{commands.run(run.here)} -m 'learning_rate=interval(0.001,0.002)'",
            "copy": commands.copy(run.here),
        }
    )
