"""What the experiments share: one noun per file, and no experiment is ever imported from here."""

import os

# Read when MLflow is imported, and any module here may be the first to do that.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
