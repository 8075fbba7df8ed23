"""A feature of two files, one of which is always the same.

python src/feature/feature90/words.py word=two
"""

from src.utils.experiment import experiment
from src.utils.errors import UserError
from src.utils.run import Run
from src.utils.settings import StageSettings


class Config(StageSettings):
    word: str


@experiment
def main(cfg: Config, run: Run) -> None:
    (run.output / "same.txt").write_text("same" * 1000)
    (run.output / "word.txt").write_text(cfg.word)
    if cfg.word == "none":
        raise UserError("no word")


if __name__ == "__main__":
    main()
