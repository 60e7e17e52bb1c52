"""A sweep as its directory records it: its runs, and why some failed."""

from collections.abc import Sequence
from pathlib import Path

from experiments import config
from experiments.errors import UserError
from experiments.files import read_json
from experiments.sweeps.jobs import directory_of, missing
from experiments.training import rundir
from experiments.training.job import Job


def jobs_in(directory: Path) -> list[Job]:
    """The runs of all grids that were trained in the directory of a sweep.

    Raises:
      UserError: there is no sweep, or it was written by another version.
    """
    path = directory / rundir.SWEEP
    if not path.exists():
        raise UserError(f"--report={directory} is not a sweep: name the --workdir of one")
    recorded = rundir.read_sweep(directory)
    if not recorded["grid"]:
        raise UserError(f"{path} is damaged (grid is empty): delete it, or name another directory")
    try:
        return [
            Job(config.from_flat(recorded["config"] | trial), directory_of(trial, directory), trial)
            for trial in recorded["grid"]
        ]
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def failures_of(jobs: Sequence[Job]) -> dict[Path, str]:
    """Why runs failed, by directory, unless they have finished since."""
    failed = {}
    for job in jobs:
        path = job.workdir / rundir.FAILURE
        if path.exists() and missing([job]):
            try:
                failed[job.workdir] = read_json(path, {"reason": str})["reason"]
            except UserError as error:  # of this run alone
                failed[job.workdir] = str(error)
    return failed
