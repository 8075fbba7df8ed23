"""The MLflow store: where it is, opening it, and reading and finding what is in it."""
