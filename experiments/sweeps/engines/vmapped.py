"""Engine `vmap`: all runs that differ only in dynamic hyperparameters train as one program.

Its runs are divided among the devices of this machine.
"""

import contextlib
import logging
import resource
import time
from collections.abc import Mapping, Sequence

from experiments.sweeps.engines import Job, Options, Outcome, Report
from experiments.sweeps.engines.attempt import attempt, no_space
from experiments.training import backend
from experiments.training.placement import Placement, select_devices
from experiments.training.run import Programs
from experiments.training.signals import Stop

_RETRY_SECONDS = 1.0
_log = logging.getLogger(__name__)
_FILES_A_RUN, _OTHER_FILES = 4, 128
_RUNS_A_DEVICE = 256  # of one program: what a larger sweep holds in memory does not grow


def train(jobs: Sequence[Job], options: Options, stop: Stop, report: Report) -> None:
    """See `engines.Engine`; `options.workers` is the most runs of one program."""
    limits = limits_of(jobs, options)
    programs = Programs()
    waiting = list(jobs)
    while waiting:
        groups, waiting = grouped(waiting, limits), []
        for group in groups:
            outcomes = attempt(
                group, stop, programs, lambda _, runs: Placement.of_runs(runs, options.devices)
            )
            if outcomes[0].status == "no_memory":
                fewer = limits[group[0].settings.program_key()] = len(group) // 2
                _log.warning("%s; training %d runs at a time", outcomes[0].reason, fewer)
                waiting += group
            else:
                waiting += _settle(group, outcomes, report)
            if stop.requested:
                return
        if waiting:
            time.sleep(_RETRY_SECONDS)


def _settle(group: Sequence[Job], outcomes: Sequence[Outcome], report: Report) -> list[Job]:
    """Reports the jobs that have ended; returns those in use, to be tried again."""
    in_use = []
    for job, outcome in zip(group, outcomes, strict=True):
        if outcome.status == "no_space":
            raise no_space(job.workdir)
        if outcome.status == "in_use":
            in_use.append(job)
        elif outcome.status != "stopped":
            report(job, outcome)
    return in_use


def most_together(runs: int, options: Options) -> int:
    """How many of the runs may train as one program.

    Raises:
      UserError: there are fewer devices than the options ask for.
    """
    # Too few are refused now, or else by each run in turn.
    devices = select_devices(backend.local_devices(), options.devices)
    return min(most_open(runs), options.workers or _RUNS_A_DEVICE * len(devices))


def limits_of(jobs: Sequence[Job], options: Options) -> dict[str, int]:
    """How many runs of each program, by its key, may train together; see `most_together`."""
    keys = (job.settings.program_key() for job in jobs)
    return dict.fromkeys(keys, most_together(len(jobs), options))


def grouped(jobs: Sequence[Job], limits: Mapping[str, int]) -> list[list[Job]]:
    """The jobs, by the program that they share, at most as many together as its limit allows.

    Groups of one program are of one size as far as possible, so that it is compiled once.
    """
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.settings.program_key(), []).append(job)
    found = []
    for key, group in groups.items():
        size = -(-len(group) // -(-len(group) // limits[key]))
        found += [group[first : first + size] for first in range(0, len(group), size)]
    return found


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
