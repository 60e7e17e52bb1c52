"""Trains every run of a grid.

python -m experiments.sweep --config=configs/vae.py --workdir=DIR [--config.KEY=VALUE ...]

  --grid 'learning_rate=1e-4,1e-3;temperature.rate=1e-5,1e-4;seed=0..4'

The grid is the config file's own `get_sweep()`, or one given here. Give `--grid` again to combine
separate grids. Rerun the same command to resume. Several sweeps may share one directory.

python -m experiments.sweep --report=DIR

prints the table and redraws the plots from the files, even while the sweep runs.
"""

import logging
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from experiments import command
from experiments import config as configs
from experiments.config import Overrides, cli
from experiments.errors import UserError
from experiments.sweeps import engines, grids, recorded, report
from experiments.sweeps.grids import Grid
from experiments.sweeps.jobs import (
    jobs_of,
    missing,
    open_directory,
    prepare_data,
    train,
    withdraw,
)
from experiments.training import rundir, trackers
from experiments.training.compilations import keep_compilations
from experiments.training.job import Job

_log = logging.getLogger(__name__)


def define_flags(values: flags.FlagValues) -> None:
    """The sweep's own flags."""
    define: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_multi_string(
        "grid",
        None,
        "KEY=VALUE,...;KEY=FIRST..LAST, in place of the config's get_sweep()",
        **define,
    )
    engines.define_flags(values)
    trackers.define_flags(values)
    define_report_flags(values)


def define_report_flags(values: flags.FlagValues) -> None:
    """The flag of a report, which stands alone."""
    flags.DEFINE_string(
        "report",
        None,
        "without other flags: print the table and redraw the plots of the sweep in this directory",
        flag_values=values,
    )


def run(argv: Sequence[str] | None = None) -> int:
    """Trains the sweep of the command line, or reports on one; returns the exit status."""

    def chosen(arguments: list[str]) -> int:
        if any(re.match("--?report(=|$)", argument) for argument in arguments):
            own = flags.FlagValues()
            define_flags(own)
            others = "|".join({"config", "workdir", *own} - {"report"})
            for argument in arguments:
                if re.match(rf"--?({others})\b", argument):
                    raise UserError(f"--report=DIR takes no other flags: leave out {argument}")
            return command.launch(report_again, define_report_flags, arguments)
        return cli.run(main, arguments, define_flags, _swept)

    return command.expanding(chosen, argv)


def report_again(values: Mapping[str, Any]) -> int:
    """Prints the table and draws the plots of a sweep again from what is on disk."""
    directory = command.required_path(
        values["report"], "report=DIR", "name the --workdir of a sweep"
    )
    jobs = recorded.jobs_in(directory)
    _report(directory, jobs, recorded.failures_of(jobs))
    return 0


def main(
    config: ConfigDict, directory: Path, overrides: Overrides, given: Mapping[str, Any]
) -> int:
    """Trains every run of a grid; rerun the same command to resume a stopped sweep."""
    grid = _grid(config, overrides, given)
    names = trackers.trackers_of_flags(given["tracker"])
    jobs = [
        job._replace(trackers=names, common=overrides) for job in jobs_of(config, grid, directory)
    ]
    warn_of_unread(jobs, overrides)
    warn_of_coarse_schedules(jobs)
    if len(jobs) < len(grid):
        more = len(grid) - len(jobs)
        _log.warning(
            "%d of %d trials are left out: their runs would repeat others", more, len(grid)
        )
    engine, options = engines.engine_of_flags(given)
    keep_compilations()
    # Nothing is written until these checks pass, so a corrected command can reuse the directory.
    prepare_data(jobs)
    trials = [dict(job.overrides) for job in jobs]
    common = configs.unchecked(config)  # alone, it need not be the config of a run
    added = open_directory(directory, common, trials)
    try:
        failures, exit_status = train(jobs, engine, options)
    except UserError:  # the engine cannot work here
        withdraw(directory, added)
        raise
    # A process of another machine that added the same trials first may have withdrawn them.
    open_directory(directory, common, trials)
    return conclude(directory, jobs, failures, exit_status)


def _swept(given: Mapping[str, Any]) -> set[str]:
    """The keys that every run of the grid sets."""
    if given["grid"] is not None:
        keys = [set(grids.keys(text)) for text in given["grid"]]
    else:
        trials = configs.load_sweep(given["config"])
        keys = [set(trial) for trial in trials] if grids.are_trials(trials) else []
    return set.intersection(*keys) if keys else set()


def _grid(config: ConfigDict, overrides: Overrides, given: Mapping[str, Any]) -> Grid:
    """The grid of the command line, or else the config file's own."""
    file = given["config"]
    if given["grid"] is not None:
        grid = grids.union(grids.parse(text, config) for text in given["grid"])
    else:
        grid = grids.checked(configs.load_sweep(file), config, f"get_sweep() of {file}")
    for key in overrides:
        if any(key in trial for trial in grid):
            raise UserError(
                f"--config.{key} sets a key that the grid varies: leave it out, or give a --grid "
                f"without {key}"
            )
    return grid


def warn_of_unread(jobs: Sequence[Job], overrides: Overrides) -> None:
    """Says which keys that the user set do nothing, and in how many runs."""
    idle = Counter(
        (key, why)
        for job in jobs
        for key, why in configs.unread(job.settings).items()
        if key in job.overrides or key in overrides
    )
    for (key, why), count in idle.items():
        _log.warning("%s does nothing in %d of %d runs: %s", key, count, len(jobs), why)


def warn_of_coarse_schedules(jobs: Sequence[Job]) -> None:
    """Says which schedules of the temperature have few steps, and in how many runs."""
    coarse = Counter(filter(None, (configs.coarse_schedule(job.settings) for job in jobs)))
    for why, count in coarse.items():
        _log.warning("%s, in %d of %d runs", why, count, len(jobs))


def conclude(
    directory: Path, jobs: Sequence[Job], failures: Mapping[Path, str], exit_status: int
) -> int:
    """Writes the table and the plot, prints the outcome, and returns the exit status.

    Table and plot cover all the grids that were trained in the directory.
    """
    every = recorded.jobs_in(directory)
    _report(directory, every, recorded.failures_of(every) | dict(failures))
    unfinished = missing(jobs)
    if exit_status:
        done = len(jobs) - len(unfinished)
        print(
            f"stopped with {done} of {len(jobs)} runs done: rerun the same command to resume",
            file=sys.stderr,
        )
        return exit_status
    lost = {job.workdir: "not finished: give the command again" for job in unfinished}
    failures = lost | dict(failures)
    for job in jobs:
        if job.workdir in failures:
            reason = f"{grids.label(job.overrides)} ({job.workdir}): {failures[job.workdir]}"
            print(f"failed: {reason}", file=sys.stderr)
    return command.FAILED if failures else 0


def _report(directory: Path, jobs: Sequence[Job], failures: Mapping[Path, str]) -> None:
    with rundir.locked(directory, wait=True):
        text = report.write(directory, jobs, failures)
    print(report.shown(text, directory / report.TEXT), end="")
    print(f"table: {directory / report.TEXT}")
    print("\n".join(f"plot: {path}" for path in report.plots_in(directory)))


if __name__ == "__main__":
    sys.exit(run())
