"""The runs of a sweep: made from a grid, recorded in its directory, and trained."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from experiments import config
from experiments.errors import UserError
from experiments.settings import Settings
from experiments.sweeps import engines, grids
from experiments.sweeps.engines import Options, Outcome
from experiments.sweeps.grids import Grid, Trial
from experiments.sweeps.progress import Display
from experiments.sweeps.report import FILES
from experiments.training import records, rundir
from experiments.training.compiled import prepared_dataset
from experiments.training.job import Job
from experiments.training.signals import graceful_stop

RUNS = "runs"


def jobs_of(base: ConfigDict, grid: Grid, directory: Path) -> list[Job]:
    """The runs of a grid, each in a directory named by a hash of what it overrides.

    If several trials give the same run, the first is kept: `sf` and `reinforce`, or rates of the
    temperature for an estimator that does not read it.

    Raises:
      UserError: the config that a trial gives is not valid.
    """
    jobs: dict[str, Job] = {}
    for trial in grid:
        try:
            settings = config.read(grids.config_at(base, trial))
        except UserError as error:
            raise UserError(f"the run {grids.label(trial)}: {error}") from error
        idle = config.unread(settings)
        read = {key: value for key, value in settings.flat().items() if key not in idle}
        job = Job(settings, directory_of(trial, directory), trial)
        jobs.setdefault(json.dumps(read, sort_keys=True), job)
    return list(jobs.values())


def directory_of(trial: Trial, directory: Path) -> Path:
    """The directory of a trial's run in that of its sweep."""
    # Absolute: a task of a Ray cluster has another working directory.
    return directory.absolute() / RUNS / grids.name(trial)


def open_directory(directory: Path, settings: Settings, grid: Grid) -> Grid:
    """Claims the directory for this config, and adds the grid to those trained there before.

    Returns:
      The trials that were not there before.

    Raises:
      UserError: it belongs to another config, is that of a single run, or has somebody's files of
        the same names.
    """
    rundir.refuse_name(directory)
    if (directory / rundir.CONFIG).exists():
        raise UserError(f"--workdir={directory} is that of a single run: choose another directory")
    with rundir.locked(directory, wait=True):
        path = directory / rundir.SWEEP
        before: Grid = []
        if path.exists():
            recorded = rundir.read_sweep(directory)
            rundir.refuse_another(recorded["config"], settings.flat(), directory)
            before = recorded["grid"]
        elif not (directory / RUNS).exists():
            rundir.refuse_overwriting(directory, rundir.SWEEP, FILES)
        every = grids.union([before, grid])
        records.write_json(path, {"config": settings.flat(), "grid": every})
    return every[len(grids.union([before])) :]


def withdraw(directory: Path, added: Grid) -> None:
    """Removes what `open_directory` added, if none of these runs has begun."""
    ours = {directory_of(trial, directory) for trial in added}
    if not ours or any(workdir.exists() for workdir in ours):
        return
    with rundir.locked(directory, wait=True):
        recorded = rundir.read_sweep(directory)
        kept = [each for each in recorded["grid"] if directory_of(each, directory) not in ours]
        if kept:
            records.write_json(directory / rundir.SWEEP, recorded | {"grid": kept})
        else:
            (directory / rundir.SWEEP).unlink()


def missing(jobs: Sequence[Job]) -> list[Job]:
    """The jobs that are not finished."""
    return [job for job in jobs if not _is_finished(job)]


def _is_finished(job: Job) -> bool:
    try:
        return rundir.result_of(job.workdir, job.settings) is not None
    except UserError:  # a damaged file, of which the run itself will say so
        return False


def prepare_data(jobs: Sequence[Job]) -> None:
    """Caches the data, and refuses what cannot be trained on, before many processes start."""
    for settings in {_data_key(job.settings): job.settings for job in missing(jobs)}.values():
        prepared_dataset(settings)


def _data_key(settings: Settings) -> str:
    """All that may decide whether a run's data suits it."""
    keys = ("dataset", "binarization", "batch_size", "task", "num_classes")
    named = {key: getattr(settings, key) for key in keys}
    return json.dumps([named, repr(settings.options)])


def train(
    jobs: Sequence[Job],
    engine: str,
    options: Options | None = None,
    after_each: Callable[[], object] = lambda: None,
    deadline: float | None = None,
) -> tuple[dict[Path, str], int]:
    """Trains the jobs that are not finished, whose data `prepare_data` has prepared.

    Args:
      jobs: the runs of the sweep, finished ones too.
      engine: a name in `engines.ENGINES`.
      options: options of the engine.
      after_each: called when a run is done or has failed.
      deadline: time by `time.monotonic()` at which it stops as by a signal; None for none.

    Returns:
      Why jobs failed, by directory, and the exit status of what ended it: see `signals.Stop`.
    """
    todo = missing(jobs)
    failures: dict[Path, str] = {}
    if not todo:
        return failures, 0
    with graceful_stop(deadline) as stop, Display(jobs) as display:

        def report(job: Job, outcome: Outcome) -> None:
            if outcome.status == "failed":
                failures[job.workdir] = outcome.reason
                display.failed(job, outcome.reason)
            else:
                display.done(job)
            after_each()

        engines.load(engine)(todo, options or Options(), stop, report)
    return failures, stop.exit_status
