"""An Optuna study: its search space, its trials and where it is stored."""
