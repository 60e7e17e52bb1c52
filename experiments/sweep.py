"""Trains every run of a grid.

python -m experiments.sweep --config=configs/vae.py --workdir=DIR [--config.KEY=VALUE ...]

  --grid 'learning_rate=1e-4,1e-3;temperature.rate=1e-5,1e-4;seed=0..4'

The grid is the config file's own `get_sweep()`, or one given here; given again, the runs of all.
Killed at any point and started again, a sweep does only what is missing; several sweeps may share
one directory.
"""

import logging
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from experiments import cli, engines, grids, overrides, records, sweep_report, validation, workdir
from experiments import config as configs
from experiments.engines import Options, Outcome
from experiments.errors import UserError
from experiments.grids import Grid
from experiments.overrides import Overrides
from experiments.progress import Display
from experiments.run import RESULT, Job, prepared_dataset
from experiments.signals import graceful_stop

RUNS = "runs"
FAILED = 1

_log = logging.getLogger(__name__)


def define_flags(values: flags.FlagValues) -> None:
    """The sweep's own flags."""
    define: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_multi_string(
        "grid",
        None,
        "KEY=VALUE,...;KEY=FIRST..LAST instead of the config's get_sweep(); may be given again",
        **define,
    )
    flags.DEFINE_enum(
        "engine",
        None,
        list(engines.ENGINES),
        "process (default on CPU), vmap (default on an accelerator) or ray",
        **define,
    )
    flags.DEFINE_integer(
        "workers",
        None,
        "runs at once; by default one a core, with vmap all",
        lower_bound=1,
        **define,
    )
    flags.DEFINE_string(
        "ray_address", None, "the Ray cluster to join; else one is started here", **define
    )


def main(
    config: ConfigDict, directory: str, overridden: Overrides, given: Mapping[str, Any]
) -> int:
    """Trains every run of a grid; a sweep that was stopped does only what is missing."""
    grid = _grid(config, overridden, given)
    jobs = jobs_of(config, grid, Path(directory))
    _warn_of_unread(jobs, overridden)
    options = Options(given["workers"], given["ray_address"])
    engine = given["engine"] or ("ray" if options.ray_address else engines.default())
    if options.ray_address and engine != "ray":
        raise UserError(f"--ray_address is for --engine=ray, and --engine={engine} is given")
    if options.ray_address and options.workers:
        raise UserError("--workers is for a cluster started here: leave it out, or --ray_address")
    # Only after what may be refused: a mended command must find the directory free.
    prepare_data(jobs)
    open_directory(Path(directory), config, grid)
    failures, exit_status = train(jobs, engine, options)
    return _conclude(Path(directory), jobs, failures, exit_status)


def jobs_of(config: ConfigDict, grid: Grid, directory: Path) -> list[Job]:
    """The runs of a grid, each in a directory named by a hash of what it overrides.

    Raises:
      UserError: the config that a point gives is not valid.
    """
    jobs = []
    for point in grid:
        job = Job(grids.config_at(config, point), _directory_of(point, directory), point)
        try:
            validation.validate(job.config)
        except UserError as error:
            raise UserError(f"the run {grids.label(point)}: {error}") from error
        jobs.append(job)
    return jobs


def _directory_of(point: Overrides, directory: Path) -> Path:
    # Absolute: a task of a Ray cluster has another working directory.
    return directory.absolute() / RUNS / grids.name(point)


def _warn_of_unread(jobs: Sequence[Job], overridden: Overrides) -> None:
    """Says which keys that the user set do nothing, and in how many runs."""
    idle = Counter(
        (key, why)
        for job in jobs
        for key, why in configs.unread(job.config).items()
        if key in job.overrides or key in overridden
    )
    for (key, why), count in idle.items():
        _log.warning("%s does nothing in %d of %d runs: %s", key, count, len(jobs), why)


def open_directory(directory: Path, config: ConfigDict, grid: Grid) -> None:
    """Makes the directory this config's, and records the grid beside those trained there before.

    Raises:
      UserError: it belongs to another config, or is that of a single run.
    """
    if (directory / workdir.CONFIG).exists():
        raise UserError(f"--workdir={directory} is that of a single run: choose another directory")
    with workdir.locked(directory, wait=True):
        path = directory / workdir.SWEEP
        record = {"config": configs.flatten(config), "grid": grid}
        if path.exists():
            recorded = records.read_json(path)
            workdir.refuse_another(recorded["config"], configs.flatten(config), directory)
            record["grid"] = grids.union([recorded["grid"], grid])
        records.write_json(path, record)


def train(
    jobs: Sequence[Job],
    engine: str,
    options: Options | None = None,
    after_each: Callable[[], object] = lambda: None,
) -> tuple[dict[Path, str], int]:
    """Trains the jobs that are not finished, whose data `prepare_data` has prepared.

    Args:
      jobs: the runs of the sweep, finished ones too.
      engine: a name in `engines.ENGINES`.
      options: for the engine.
      after_each: called when a run is done or has failed.

    Returns:
      Why jobs failed, by directory, and the exit status of the signal that ended it, or 0.
    """
    missing = _missing(jobs)
    failures: dict[Path, str] = {}
    if not missing:
        return failures, 0
    with graceful_stop() as stop, Display(jobs) as display:

        def report(job: Job, outcome: Outcome) -> None:
            if outcome.status == "failed":
                failures[job.workdir] = outcome.reason
                display.failed(job, outcome.reason)
            else:
                display.done(job)
            after_each()

        engines.load(engine)(missing, options or Options(), stop, report)
    return failures, stop.exit_status


def _grid(config: ConfigDict, overridden: Overrides, given: Mapping[str, Any]) -> Grid:
    """The grid of the command line, or else the config file's own."""
    file = given["config"]
    if given["grid"] is not None:
        grid = grids.union(grids.parse(text, config) for text in given["grid"])
    else:
        grid = grids.checked(
            overrides.load_sweep(given["config"]), config, f"get_sweep() of {file}"
        )
    for key in overridden:
        if any(key in point for point in grid):
            raise UserError(
                f"--config.{key} sets a key that the grid varies: leave it out, or give a --grid "
                f"without {key}"
            )
    return grid


def _missing(jobs: Sequence[Job]) -> list[Job]:
    """The jobs that are not finished."""
    return [job for job in jobs if not (job.workdir / RESULT).exists()]


def prepare_data(jobs: Sequence[Job]) -> None:
    """Has the data cached, and refuses what cannot be trained on, before many processes start."""
    for config in {_data_key(job.config): job.config for job in _missing(jobs)}.values():
        prepared_dataset(config)


def _data_key(config: ConfigDict) -> tuple[Any, ...]:
    labels = [config.get(key) for key in ("labels", "num_labels", "num_classes")]
    return config.dataset, config.binarization, config.batch_size, config.model, *labels


def _conclude(
    directory: Path, jobs: Sequence[Job], failures: Mapping[Path, str], exit_status: int
) -> int:
    """Writes the table and the plot, says what came of it, and gives the exit status.

    Table and plot are of all the grids that were trained in the directory.
    """
    with workdir.locked(directory, wait=True):
        ours = {job.workdir for job in jobs}
        others = [
            Job(jobs[0].config, path, point)
            for point in records.read_json(directory / workdir.SWEEP)["grid"]
            if (path := _directory_of(point, directory)) not in ours
        ]
        text = sweep_report.write(directory, [*jobs, *others], failures)
    print(text, end="")
    print(f"table: {directory / sweep_report.TEXT}\nplot: {directory / sweep_report.PLOT}")
    if exit_status:
        done = sum((job.workdir / RESULT).exists() for job in jobs)
        print(
            f"stopped with {done} of {len(jobs)} runs done: the same command goes on",
            file=sys.stderr,
        )
        return exit_status
    lost = {job.workdir: "not finished: give the command again" for job in _missing(jobs)}
    failures = lost | dict(failures)
    for job in jobs:
        if job.workdir in failures:
            reason = f"{grids.label(job.overrides)} ({job.workdir}): {failures[job.workdir]}"
            print(f"failed: {reason}", file=sys.stderr)
    return FAILED if failures else 0


if __name__ == "__main__":
    sys.exit(cli.run(main, define_flags=define_flags))
