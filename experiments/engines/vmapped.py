"""Engine `vmap`: all runs that differ only in traced numbers train as one program."""

import time
from collections.abc import Sequence

from experiments import config as configs
from experiments.engines import Job, Options, Report
from experiments.engines.attempt import attempt, no_space
from experiments.run import Programs
from experiments.signals import Stop

_RETRY_SECONDS = 1.0


def train(jobs: Sequence[Job], options: Options, stop: Stop, report: Report) -> None:
    """See `engines.Engine`; `options` are those of the other engines."""
    waiting = list(jobs)
    while waiting:
        groups, waiting = grouped(waiting), []
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


def grouped(jobs: Sequence[Job]) -> list[list[Job]]:
    """The jobs, by the program that they share."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(configs.program_key(job.config), []).append(job)
    return list(groups.values())
