"""The `lab` command, a file for each of its subcommands; `mlflow_server.py` is for scripts/mlflow_ui.sh."""
