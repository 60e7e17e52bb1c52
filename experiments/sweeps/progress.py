"""How far the runs of a sweep are, read from their directories and shown while they train."""

import json
import math
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from rich.console import Console
from rich.live import Live
from tqdm import tqdm

from experiments import tasks
from experiments.errors import UserError
from experiments.files import Maybe, mismatch
from experiments.sweeps import grids
from experiments.training import rundir
from experiments.training.job import Job
from experiments.training.rundir import METRICS

_POLL_SECONDS = 1.0
_TAIL_BYTES = 8192


class Standing(NamedTuple):
    """How far one run is.

    Attributes:
      done: whether its `result.json` stands.
      step: the last step logged.
      bound: its newest validation bound, in nats; that of `result.json` if done.
      loss: the newest loss by which the task ranks runs; infinite if it is unknown.
    """

    done: bool = False
    step: int = 0
    bound: float | None = None
    loss: float = math.inf


def standing(job: Job) -> Standing:
    """How far a run is, from its files alone: whoever trains it."""
    task = tasks.load(job.settings.task)
    shape = rundir.validation_shape(job.settings.task)
    try:
        result = rundir.result_of(job.workdir, job.settings, {"steps": int, **shape})
    except UserError:  # a damaged file, of which the run itself will say so
        return Standing()
    if result is not None:
        loss = task.ranking.loss(result)
        return Standing(True, result["steps"], result["validation_bound"], loss)
    rows = _last_rows(job, {"step": int, **{key: Maybe(kind) for key, kind in shape.items()}})
    measured = [row for row in rows if row.get("validation_bound") is not None]
    step = rows[-1]["step"] if rows else 0
    if not measured:
        return Standing(False, step)
    last = dict.fromkeys(shape) | measured[-1]
    return Standing(False, step, last["validation_bound"], task.ranking.loss(last))


def how_far(job: Job) -> str:
    """How far a run that is not finished is, in words; `not started` without a log."""
    there = standing(job)
    if not (job.workdir / METRICS).exists():
        return "not started"
    bound = "" if there.bound is None else f", validation bound {nats(there.bound)}"
    return f"at step {there.step} of {job.settings.num_steps}{bound}"


def nats(bound: float | None) -> str:
    """A bound in few characters, however large; None stands for one that is not finite.

    Example:
      >>> nats(61.523), nats(2.5e30), nats(None)
      ('61.52', '2.5e+30', 'not finite')
    """
    if bound is None or not math.isfinite(bound):
        return "not finite"
    return f"{bound:.2f}" if abs(bound) < 1e6 else f"{bound:.3g}"


def _last_rows(job: Job, shape: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The last whole lines of a run's metrics, each of the shape."""
    try:
        with (job.workdir / METRICS).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return []
    whole = lines[:-1] if size <= _TAIL_BYTES else lines[1:-1]
    try:
        rows = [json.loads(line) for line in whole]
    except (ValueError, RecursionError):
        return []  # being replaced, or damaged: the run itself will say so
    return [] if mismatch(rows, [shape]) else rows


class Display:
    """How a sweep stands, on stderr: a table on a terminal, else one line per run that ends.

    Within the block a thread of its own keeps the table up to date.

    Args:
      jobs: all runs of the sweep, finished ones too.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = jobs
        self._standings = [standing(job) for job in jobs]
        self._failed: dict[Path, str] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._began, self._first = time.monotonic(), self._steps()
        console = Console(stderr=True)
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._over.set()
            self._thread.join()
            self._refresh()
            self._live.stop()

    def done(self, job: Job) -> None:
        """Says that a run is done."""
        bound = nats(standing(job).bound)
        self._say(f"done: {grids.label(job.overrides)}: validation bound {bound} nats")

    def failed(self, job: Job, reason: str) -> None:
        """Says that a run has failed."""
        self._failed[job.workdir] = reason
        self._say(f"failed: {grids.label(job.overrides)}: {reason}")

    def _say(self, line: str) -> None:
        self._refresh()
        if self._live is None:  # else the table says it
            print(f"{line} ({self._summary()})", file=sys.stderr, flush=True)

    def _watch(self) -> None:
        while not self._over.wait(_POLL_SECONDS):
            self._refresh()

    def _refresh(self) -> None:
        with self._lock:
            self._standings = [
                old if old.done else standing(job)
                for job, old in zip(self._jobs, self._standings, strict=True)
            ]
            if self._live:
                from experiments.sweeps import live

                shown = live.view(self._jobs, self._standings, self._failed, self._summary())
                self._live.update(shown, refresh=True)

    def _steps(self) -> int:
        return sum(each.step for each in self._standings)

    def _total(self) -> int:
        """All the steps there are to do; a run that has failed takes no more."""
        return sum(
            each.step if job.workdir in self._failed else job.settings.num_steps
            for job, each in zip(self._jobs, self._standings, strict=True)
        )

    def _summary(self) -> str:
        """Runs done, run-steps a second since this sweep was started, and the time left."""
        done = sum(each.done for each in self._standings)
        failed = f", {len(self._failed)} failed" if self._failed else ""
        text = f"{done}/{len(self._jobs)} runs{failed}"
        gained = self._steps() - self._first
        if gained <= 0:
            return text
        speed = gained / (time.monotonic() - self._began)
        left = tqdm.format_interval((self._total() - self._steps()) / speed)
        return f"{text}, {speed:.0f} run-steps/s, {left} left"
