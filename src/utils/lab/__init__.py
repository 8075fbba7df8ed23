"""The `lab` command: one file for each of its subcommands, and `mlflow_ui.py` for scripts/mlflow_ui.sh."""
