"""Code that all experiments share. It never imports an experiment.

docs/architecture.md lists its files and folders, and which of them import which.
"""

import os

# MLflow reads it when it is imported, and any module here may be the first to import MLflow.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
