"""Engine `vmap`: all runs that differ only in dynamic hyperparameters train as one program."""

import contextlib
import resource
import time
from collections.abc import Sequence

from experiments.sweeps.engines import Job, Options, Report
from experiments.sweeps.engines.attempt import attempt, no_space
from experiments.training.run import Programs
from experiments.training.signals import Stop

_RETRY_SECONDS = 1.0
_FILES_A_RUN, _OTHER_FILES = 4, 128


def train(jobs: Sequence[Job], options: Options, stop: Stop, report: Report) -> None:
    """See `engines.Engine`; `options.workers` is the most runs of one program."""
    most = most_open(len(jobs))
    if options.workers:
        most = min(most, options.workers)
    waiting = list(jobs)
    while waiting:
        groups, waiting = grouped(waiting, most), []
        for group in groups:
            for job, outcome in zip(group, attempt(group, stop, Programs()), strict=True):
                if outcome.status == "no_space":
                    raise no_space(job.workdir)
                if outcome.status == "in_use":
                    waiting.append(job)
                elif outcome.status != "stopped":
                    report(job, outcome)
            if stop.requested:
                return
        if waiting:
            time.sleep(_RETRY_SECONDS)


def grouped(jobs: Sequence[Job], most: int) -> list[list[Job]]:
    """The jobs, by the program that they share, at most so many together."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.settings.program_key(), []).append(job)
    return [
        group[first : first + most]
        for group in groups.values()
        for first in range(0, len(group), most)
    ]


def most_open(runs: int) -> int:
    """How many of the runs can have their files open; raises the soft limit as far as needed."""
    wanted = _FILES_A_RUN * runs + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):  # a system may have a lower limit of its own
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return runs
    return max(1, (soft - _OTHER_FILES) // _FILES_A_RUN)
