"""The `lab` command: one file for each of its subcommands, and `mlflow_server.py` for scripts/mlflow_ui.sh."""
