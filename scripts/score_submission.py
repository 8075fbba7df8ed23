"""Print the score of a submission for _data/sample/bikes, as the host of a competition does.

    .venv/bin/python scripts/score_submission.py PATH/TO/submission.csv

The score is the RMSLE on the hidden counts; lower is better. Nothing else reads solution.csv.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

SOLUTION = Path(__file__).parents[1] / "_data" / "sample" / "bikes" / "solution.csv"


def score(submission: pd.DataFrame, solution: pd.DataFrame) -> float:
    """The RMSLE of a submission whose rows may have any order."""
    if list(submission.columns) != list(solution.columns):
        sys.exit(f"error: the columns should be {', '.join(solution.columns)}")
    if sorted(submission["id"]) != sorted(solution["id"]):
        sys.exit("error: the ids should be those of test.csv, each once")
    rows = solution.merge(submission, on="id", suffixes=("", "_submitted"))
    if not (rows["count_submitted"] >= 0).all():
        sys.exit("error: each count should be a number, 0 or more")
    errors = np.log1p(rows["count_submitted"]) - np.log1p(rows["count"])
    return float(np.sqrt(np.mean(errors**2)))


def main(submission: Path) -> None:
    """Score one file."""
    print(f"RMSLE {score(pd.read_csv(submission), pd.read_csv(SOLUTION)):.5f}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
