"""Finished runs as JSON files of their own, which outlive the machine that trained them.

A run whose record is here counts as done, wherever it was trained.
"""

import contextlib
import shutil
from pathlib import Path
from typing import Any

from experiments import config
from experiments.errors import UserError
from experiments.files import Shape, read_json, replacing
from experiments.sweeps.engines.attempt import divergence
from experiments.training import records, rundir
from experiments.training.job import Job
from experiments.training.provenance import ORIGIN
from experiments.training.rundir import CHECKPOINTS, METRICS, PICTURES, RESULT, TENSORBOARD

Record = dict[str, Any]


# What the tables and figures read of a record of any task.
_RECORD: Shape = {
    **rundir.RESULT_SHAPE,
    **ORIGIN,
    "test_num_samples": int,
    "curve": [{"step": int, "validation_bound": float}],
}


def record_of(workdir: Path, shape: Shape = rundir.RESULT_SHAPE) -> Record:
    """What `result.json` holds and, under `curve`, the metrics that have a validation bound.

    Args:
      workdir: directory of a run.
      shape: shape that the result must have.

    Raises:
      UserError: the run is not finished, or its result has another shape.
    """
    result: Record = rundir.read_result(workdir, shape)
    curve = [
        row
        for row in records.read_metrics(workdir / METRICS)
        if row.get("validation_bound") is not None
    ]
    return result | {"curve": curve}


class Store:
    """The records of a reproduction's runs, by the path of each below the directory of the runs.

    Args:
      records_dir: directory of the JSON files.
      runs_dir: directory of the runs' own directories.
      writes: whether `record` writes those that are missing.
    """

    def __init__(self, records_dir: Path, runs_dir: Path, *, writes: bool = True) -> None:
        self.records_dir, self.runs_dir, self.writes = records_dir, runs_dir, writes

    def record(self, job: Job) -> Record | None:
        """The record of a job, or None if it has not finished.

        If the run has finished and has no record yet, the record is made, and written if the
        store writes.

        Raises:
          UserError: the record is damaged; it, or the finished run, is another config's.
        """
        path, settings = self._path(job), job.settings.flat()
        if path.exists():
            shape = _RECORD | rundir.result_shape(job.settings.task)
            kept: Record = read_json(path, shape, "delete it, to have it made of the run again")
            if difference := config.difference(kept["config"], settings):
                raise UserError(
                    f"{path} is of another config ({difference}): delete it, or give another "
                    "--results"
                )
            return kept
        if not (job.workdir / RESULT).exists():
            return None
        found = record_of(job.workdir, rundir.result_shape(job.settings.task))
        rundir.refuse_another(found["config"], settings, job.workdir)
        if self.writes:
            path.parent.mkdir(parents=True, exist_ok=True)
            records.write_json(path, found)
            self._diverged(job).unlink(missing_ok=True)  # in an earlier attempt
        return found

    def diverged(self, job: Job) -> bool:
        """Whether an attempt at a job has diverged, as another one would.

        That outlives the directory of the run, as records do: other runs were picked instead.

        Raises:
          UserError: what was kept of it is damaged.
        """
        path = self._diverged(job)
        if path.exists():
            fix = "delete it, to have the run tried again"
            kept = read_json(path, {"config": {str: object}}, fix)
            if not config.differing(kept["config"], job.settings.flat()):
                return True
        found = divergence(job)
        if found and self.writes:
            path.parent.mkdir(parents=True, exist_ok=True)
            records.write_json(path, found)
        return bool(found)

    def pictures(self, job: Job) -> Path | None:
        """The arrays of a job's pictures, kept beside its record; None if it has not finished."""
        if self.record(job) is None:
            return None
        path = self._path(job).with_suffix(".npz")
        if (job.workdir / PICTURES).exists():
            with replacing(path) as file:
                file.write((job.workdir / PICTURES).read_bytes())
        return path if path.exists() else None

    def thin(self) -> None:
        """Removes from the runs' directories what neither a resume nor a table needs.

        A run with a record is removed as a whole, and one under way keeps its newest checkpoint.
        One that another process holds is left alone.
        """
        for workdir in self.runs_dir.glob("*/*/*/"):
            with contextlib.suppress(rundir.InUseError), rundir.locked(workdir):
                if (workdir / RESULT).exists():
                    kept, trained = self._of(workdir), rundir.read_result(workdir)["config"]
                    if kept.exists() and read_json(kept, _RECORD)["config"] == trained:
                        shutil.rmtree(workdir)
                    continue
                for step in rundir.saved_steps(workdir)[:-1]:
                    shutil.rmtree(workdir / CHECKPOINTS / str(step))
                # Written anew from the metrics.
                shutil.rmtree(workdir / TENSORBOARD, ignore_errors=True)

    def _path(self, job: Job) -> Path:
        return self._of(job.workdir)

    def _diverged(self, job: Job) -> Path:
        path = self._path(job).relative_to(self.records_dir)
        return self.records_dir / "diverged" / path

    def _of(self, workdir: Path) -> Path:
        relative = workdir.relative_to(self.runs_dir)
        return self.records_dir / relative.parent / f"{relative.name}.json"
