"""Odd command lines, hundreds of them: each is accepted, or refused in one line with nothing written."""

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from conftest import DATASET, MODEL, ROOT, Lab

# What people typed that ended in a traceback, in a failed run, or left files behind.
KNOWN = """
=1 | hydra=1 | -sc | --run --multirun | --resolve | --cfg job -m | --multi hidden=x,8
hydra.mode=MULTIRUN hidden=x | hydra.mode=BOTH | hydra.job_logging.root.level=LOUD | hydra.verbose=3
-m hydra.verbose=null | hydra.verbose=[[]]
hydra.run.dir=/proc/nope | hydra.output_subdir=null | hydra.output_subdir=x
hydra.sweeper.n_trials=abc | -m hidden=8,9 hydra.sweeper.n_trial=3 | -m hidden=x,8
note=${foo} | note=${nope:} | note=${seed | tags=baseline | tags=[a+b] | tags=null
feature=feature99 | feature=../../etc | feature=/etc | feature= | resume_run=deadbeef | resume_study=latest
seed=4294967296 | seed=-1 | seed=null | seed=[1] | seed={a:1} | hidden=99999999999999999999
hidden= | batch_size=1e30 | batch_size=0 | learning_rate=inf | learning_rate=nan | learning_rate=-1
dropout=1 | network=resnet | network= | network | +colour=red | learnin_rate=1 | ~network | ~trainer
trainer=abc | trainer=null | trainer.devices.x=1 | trainer.max_epoch=3 | trainer.max_steps=3
trainer.precision=99 | trainer.accelerator=gpu | trainer.accelerator=abc | trainer.accelerator=null
trainer.devices=0 | trainer.devices=abc | trainer.devices=null | trainer.strategy=foo
trainer.log_every_n_steps=abc | trainer.log_every_n_steps=0 | trainer.deterministic=abc
trainer.max_epochs=0 | trainer.max_epochs=-3 | trainer.max_epochs=abc | max_epochs=0 | max_epochs=-1
+trainer.foo=1 | +trainer.max_time=abc | +trainer.max_time=3 | +trainer.max_steps=0
+trainer.accumulate_grad_batches=0 | +trainer.val_check_interval=7.5 | +trainer.profiler=nope
+trainer.val_check_interval=0 | +trainer.limit_val_batches=2.5 | +trainer.limit_val_batches=abc
+trainer.callbacks=[a] | +trainer.logger=false | +trainer.logger=csv | +trainer.barebones=true
+trainer.default_root_dir=/tmp | +trainer.enable_checkpointing=false | +trainer.plugins=[a]
--config-name=settings | --config-name=settings network=mlp | --config-name=nope | --cfg | --cfg x
--info x | -x | --- | - | hydra/sweeper=nope | hydra/launcher=nope | hydra.run=1 | hydra.searchpath=[x]
hidden=8,9 | learning_rate=interval(0.1,0.2) | hydra.callbacks=null | hydra.job.env_set.A=1 | ~hydra
"""
ACCEPTED = """
max_epochs=1.0 | max_epochs=-1 +trainer.max_steps=3 | max_epochs=-1 +trainer.max_time=00:00:00:05
+trainer.max_steps=300 | +trainer.check_val_every_n_epoch=2 | +trainer.fast_dev_run=true
+trainer.fast_dev_run=3 | +trainer.limit_val_batches=0 | +trainer.num_sanity_val_steps=2
+trainer.enable_progress_bar=true | +trainer.enable_progress_bar=false | +trainer.callbacks=[]
+trainer.enable_model_summary=true | +trainer.logger=true | +trainer.enable_checkpointing=true
+trainer.profiler=simple | +trainer.accumulate_grad_batches=2 | +trainer.gradient_clip_val=0.5
+trainer.benchmark=true | +trainer.inference_mode=false | +trainer.use_distributed_sampler=false
+trainer.detect_anomaly=true | +trainer.sync_batchnorm=true | +trainer.plugins=[]
+trainer.reload_dataloaders_every_n_epochs=1 | +trainer.overfit_batches=2 | +trainer.min_epochs=1
+trainer.val_check_interval=0.5 | +trainer.barebones=false | trainer.deterministic=warn
note=日本語 | note=true | note=12e45 | note=[1,2] | tags=[2026] | -m hidden=8,9 | --multi hidden=8,9
hydra.mode=MULTIRUN hidden=8,9 | resume_run=null | seed=4294967295
"""
NOTES = [
    "why (not), really: 50%",
    "it's",
    'a "b" c',
    "a, b",
    "{x}",
    "x=y",
    "((",
    "日本 (語)",
    "~",
    "#1",
]
KEYS = ["seed", "hidden", "learning_rate", "network", "feature", "tags", "max_epochs", "resume_run"]
KEYS += [
    "trainer.devices",
    "+trainer.max_steps",
    "trainer.precision",
    "+trainer.x",
    "hydra.verbose",
]
KEYS += ["hydra.sweeper.n_trials", "+hidden", "++hidden", "~hidden", "hydra.job.name", "nothing"]
VALUES = [
    "",
    "0",
    "-1",
    "1e400",
    "9" * 30,
    "x" * 5000,
    "null",
    "true",
    "[1,",
    "{a:1}",
    "[[]]",
    "'",
    "${x}",
]
VALUES += [
    "a,b",
    "glob(*)",
    "range(1,3)",
    "interval(1,2)",
    "${seed}",
    "\\",
    "é",
    "../..",
    "%s",
    "{}",
]


def lines(text: str) -> list[list[str]]:
    """Command lines with a bar between each two."""
    return [one.split() for row in text.strip().splitlines() for one in row.split(" | ")]


def made_up(number: int) -> Iterator[list[str]]:
    """Keys and values that don't belong together, always the same ones."""
    chance = random.Random(0)
    for _ in range(number):
        count = chance.choice([1, 1, 2])
        line = [f"{chance.choice(KEYS)}={chance.choice(VALUES)}" for _ in range(count)]
        yield [*(["-m"] if chance.random() < 0.3 else []), *line]


def answers(lab: Lab, program: str, typed: list[list[str]], place: Path) -> list[list[object]]:
    """[exit status, stdout, stderr, files written] for each command line."""
    place.mkdir()
    file = place / "typed"
    file.write_text("".join(f"{json.dumps(line)}\n" for line in typed))
    driver = ROOT / "tests" / "fuzz_driver.py"
    process = lab.start(sys.executable, driver, lab.root / program, file, place)
    out, err = process.communicate(timeout=550)
    said = [json.loads(line) for line in out.splitlines()]
    assert len(said) == len(typed), err
    return said


def is_refused(answer: list[object]) -> bool:
    """One line, exit status 2, nothing else."""
    status, out, err, files = answer
    one_line = str(err).startswith("error: ") and str(err).count("\n") == 1
    return status == 2 and one_line and not out and not files


def is_accepted(answer: list[object]) -> bool:
    """`main` would be called, and nothing else is said."""
    status, out, err, _ = answer
    return status == 0 and str(out).strip() == "accepted" and not err


def test_odd_command_lines(clone: Lab, tmp_path: Path) -> None:
    """Whatever is typed is accepted, or refused in one line, with nothing written and no traceback."""
    lab = clone.copied(tmp_path / "lab")
    fine = [*lines(ACCEPTED), *([f"note={note}"] for note in NOTES)]
    typed = [*lines(KNOWN), *fine, *made_up(100)]
    said = answers(lab, MODEL, typed, tmp_path / "scratch")
    known = len(lines(KNOWN))
    right = [
        *map(is_refused, said[:known]),
        *map(is_accepted, said[known : known + len(fine)]),
        *(is_refused(one) or is_accepted(one) for one in said[known + len(fine) :]),
    ]
    wrong = [
        f"{line}: {one}"[:600] for line, one, ok in zip(typed, said, right, strict=True) if not ok
    ]
    assert not wrong, "\n".join(wrong)


def test_odd_command_lines_of_a_stage(clone: Lab, tmp_path: Path) -> None:
    """The same holds for a program that trains nothing."""
    lab = clone.copied(tmp_path / "lab")
    typed = lines("source=moon | force=perhaps | seed=1.5 | folder=[1] | trainer.devices=1 | -z")
    said = answers(lab, DATASET, typed, tmp_path / "scratch")
    wrong = [one for one in zip(typed, said, strict=True) if not is_refused(one[1])]
    assert not wrong, wrong
