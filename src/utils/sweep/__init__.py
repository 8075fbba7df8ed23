"""`-m`: Hydra's sweeper with Optuna, and the launcher that runs each trial in a process of its own."""
