"""Groups: one answer from many runs. `folds=5 seeds=3` makes a run for each fold and seed."""
