"""Training one job, or several as one program, with an outcome instead of an exception."""

import errno
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from experiments import config
from experiments.errors import DivergedError, Stopped, UserError, one_line
from experiments.files import is_no_space, read_json
from experiments.training import records, run
from experiments.training.job import Job
from experiments.training.out_of_memory import OutOfMemoryError
from experiments.training.placement import PlacementRule, one_device
from experiments.training.run import Programs
from experiments.training.rundir import FAILURE, InUseError
from experiments.training.signals import Stop


class Outcome(NamedTuple):
    """What became of a job.

    Attributes:
      status: `in_use` if another process trains it; `no_memory` if the jobs, several, need more
        than there is; `no_space` ends the whole sweep.
      reason: reason of a failure, in one line.
    """

    status: Literal["done", "failed", "in_use", "stopped", "no_memory", "no_space"]
    reason: str = ""


def attempt(
    jobs: Sequence[Job], stop: Stop, programs: Programs, place: PlacementRule = one_device
) -> list[Outcome]:
    """Trains jobs that share a program, and records those that fail in their directories.

    Args:
      jobs: one, or several to train together.
      stop: looked at between the calls of the program.
      programs: what was compiled for the jobs before, for these to use.
      place: see `run.train_together`.
    """
    try:
        results: Sequence[dict[str, Any] | Exception] = run.train_together(
            jobs, stop=stop, programs=programs, place=place
        )
    except Stopped as stopped:
        failed = stopped.failed
        return [
            fail(job, failed[job.workdir]) if job.workdir in failed else Outcome("stopped")
            for job in jobs
        ]
    except OutOfMemoryError as error:
        if len(jobs) > 1:  # fewer at once may fit
            return [Outcome("no_memory", one_line(error))] * len(jobs)
        results = [error]
    except Exception as error:  # whatever it is, the other runs of the sweep continue
        results = [error] * len(jobs)
    return [_outcome(job, result) for job, result in zip(jobs, results, strict=True)]


def _outcome(job: Job, result: dict[str, Any] | Exception) -> Outcome:
    if isinstance(result, InUseError):
        return Outcome("in_use")
    if isinstance(result, Exception):
        return fail(job, result)
    (job.workdir / FAILURE).unlink(missing_ok=True)
    return Outcome("done")


def fail(job: Job, error: Exception) -> Outcome:
    """Records why a job failed in its directory."""
    reason = one_line(error)
    if not isinstance(error, UserError):
        reason = f"{type(error).__name__}: {reason}"
    if is_no_space(error):
        return Outcome("no_space", reason)
    lines = [] if isinstance(error, UserError) else traceback.format_exception(error)
    failure = {
        "reason": reason,
        "diverged": isinstance(error, DivergedError),
        "overrides": job.changes,
        "config": job.settings.flat(),
        "traceback": "".join(lines),
    }
    try:
        job.workdir.mkdir(parents=True, exist_ok=True)
        records.write_json(job.workdir / FAILURE, failure)
    except OSError as other:
        if is_no_space(other):
            return Outcome("no_space", one_line(other))
    return Outcome("failed", reason)


def has_failed(job: Job) -> bool:
    """Whether the last attempt at a job failed, for a reason of its own."""
    return (job.workdir / FAILURE).exists()


def divergence(job: Job) -> dict[str, Any] | None:
    """The record of a failure, if the last attempt at a job with these settings diverged.

    Another attempt would diverge, too.
    """
    if not has_failed(job):
        return None
    try:
        failure = read_json(job.workdir / FAILURE, {"diverged": bool, "config": {str: object}})
    except UserError:  # damaged, or of a version that did not say
        return None
    differs = config.differing(failure["config"], job.settings.flat())
    return None if differs or not failure["diverged"] else failure


def no_space(workdir: Path) -> OSError:
    """The error that ends a sweep whose disk is full."""
    return OSError(
        errno.ENOSPC, "No space left on device: rerun the same command to resume", str(workdir)
    )
