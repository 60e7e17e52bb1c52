"""Trains the waves of a table, all of them or as many as fit a slice of time."""

import sys
import time
from typing import NamedTuple

from experiments.command import FAILED
from experiments.reproduce import plan
from experiments.reproduce.table import Table
from experiments.sweeps import jobs
from experiments.sweeps.engines import Options
from experiments.training.signals import TIME_IS_UP


class Slice(NamedTuple):
    """How much of a table to train now.

    Attributes:
      deadline: time by `time.monotonic()` from which on no step starts; None to train all.
      thin: whether to leave in the runs' directories only what the next slice needs.
    """

    deadline: float | None = None
    thin: bool = False

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return self.deadline is not None and time.monotonic() >= self.deadline


def train(table: Table, engine: str, options: Options, limit: Slice) -> int:
    """Trains what is missing, wave by wave, and writes the table after each run.

    Args:
      table: table to train.
      engine: a name in `engines.ENGINES`.
      options: options of the engine.
      limit: how much to train. With a deadline, runs that diverged are left alone: each slice
        would repeat them.

    Returns:
      The exit status: 75 if the time was up first, 128 + signal number after a signal, 1 if runs
      have failed, else 0.
    """
    table.refuse_another()
    table.claim_results()
    status = ended = begun = 0
    for wave in filter(lambda wave: wave.jobs, table.waves()):
        todo = wave.jobs
        if limit.deadline is not None:
            todo = [job for job in todo if not table.runs.store.diverged(job)]
            for job in wave.jobs:
                if job not in todo:
                    print(f"diverged before: {job.workdir}", file=sys.stderr)
                    status = FAILED
        if todo and begun and limit.is_over:  # the first wave gets on, however short the slice
            ended = TIME_IS_UP
            break
        begun += len(todo)
        print(f"{wave.name}: {len(todo)} runs", file=sys.stderr)
        jobs.prepare_data(todo)
        failures, ended = jobs.train(todo, engine, options, table.write, limit.deadline)
        for workdir, reason in failures.items():
            print(f"failed: {workdir}: {reason}", file=sys.stderr)
            status = FAILED
        left = [job for job in jobs.missing(todo) if job.workdir not in failures]
        if ended and (ended != TIME_IS_UP or left):
            break
        ended = 0
    return _conclude(table, engine, options, limit, ended or status)


def _conclude(table: Table, engine: str, options: Options, limit: Slice, status: int) -> int:
    """Writes the table, says what is left or where the table is, and gives the exit status."""
    table.write()
    waves = plan.waves(table, engine, options)
    if limit.thin:
        table.runs.store.thin()
    if status in (0, FAILED):
        text = table.results / f"{table.name}.md"
        numbers = text.with_suffix(".json")
        print(f"{text.read_text(encoding='utf-8')}table: {text}\nnumbers: {numbers}")
        return status
    left, steps = sum(len(wave.left) for wave in waves), sum(wave.steps for wave in waves)
    done = sum(wave.done for wave in waves)
    print(
        f"stopped with {done} runs done and {left} left, of {steps:,} steps: rerun the same "
        "command to resume",
        file=sys.stderr,
    )
    return status
