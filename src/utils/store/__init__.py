"""The MLflow store: where it is, how it is opened, and how runs in it are read and found."""
