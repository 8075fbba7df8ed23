"""`-m`: searches with Optuna, each trial in a process of its own."""
