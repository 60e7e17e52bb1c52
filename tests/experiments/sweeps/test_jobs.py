"""Training a sweep's runs: what is recorded of those that fail, and what ends a sweep."""

import sys
from typing import Any

import numpy as np
import pytest
from orbax.checkpoint import checkpoint_managers

from experiments.config import read
from experiments.errors import UserError
from experiments.files import read_json
from experiments.sweeps import grids, jobs
from experiments.sweeps.engines import Options, attempt
from experiments.training import records, run
from experiments.training.checkpoints import Checkpoints
from experiments.training.job import Job
from experiments.training.signals import Stop
from tests.experiments import small
from tests.experiments.sweeps.launching import jobs_in


def test_a_full_disk_ends_the_sweep(tmp_path, monkeypatch, fail):
    def full(*_: object, **__: object) -> None:
        raise ValueError('Failed writing "d/a0": No space left on device [os_error_code=28]')

    def save(members: list[Job], **_: object) -> None:
        with Checkpoints(members[0].workdir / "checkpoints") as checkpoints:
            monkeypatch.setattr(checkpoint_managers.CheckpointManager, "save", full)
            checkpoints.save(1, {"x": np.zeros(3)})

    monkeypatch.setattr(run, "train_together", save)
    line = fail("--engine=vmap", workdir=str(tmp_path))
    assert "runs/" in line
    assert "No space left on device: rerun the same command to resume" in line


def test_a_bug_in_one_run_is_recorded_with_its_traceback(tmp_path, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(run, "train_together", broken)
    ours = jobs_in(tmp_path)
    failures, status = jobs.train(ours, "vmap")
    assert status == 0
    assert failures == {job.workdir: "ZeroDivisionError: division by zero" for job in ours}
    assert "in broken" in read_json(ours[0].workdir / "failure.json")["traceback"]

    def fixed(members: list[Job], **_: object) -> list[dict[str, Any]]:
        for job in members:
            records.write_json(job.workdir / "result.json", {"steps": 60, "validation_bound": 7.0})
        return [{}] * len(members)

    # Those that failed are tried again.
    monkeypatch.setattr(run, "train_together", fixed)
    assert jobs.train(ours, "vmap") == ({}, 0)
    assert not (ours[0].workdir / "failure.json").exists()


def test_a_failure_is_forgotten_once_the_run_goes_on(tmp_path):
    [job] = jobs.jobs_of(small.config("sbn"), [{"seed": 0}], tmp_path)
    attempt.fail(job, UserError("out of memory"))
    stop = Stop(deadline=0.0)
    [outcome] = attempt.attempt([job], stop, run.Programs())
    assert outcome.status == "stopped"
    assert not attempt.has_failed(job)


def test_a_grid_may_be_extended(tmp_path):
    config = small.config("sbn")
    for seeds in ((0, 1), (1, 2)):
        jobs.open_directory(tmp_path, read(config), grids.product({"seed": seeds}))
    recorded = read_json(tmp_path / "sweep.json")
    assert recorded["grid"] == [{"seed": 0}, {"seed": 1}, {"seed": 2}]


def test_an_unknown_ray_address_is_refused_before_anything_is_trained(tmp_path, monkeypatch):
    class Ray:
        @staticmethod
        def init(**options: Any) -> None:
            raise ConnectionError(f"cannot reach {options['address']}")

    monkeypatch.setitem(sys.modules, "ray", Ray)
    with pytest.raises(
        UserError, match=r"--ray_address=far:1: no Ray cluster .*cannot reach far:1"
    ):
        jobs.train(jobs_in(tmp_path), "ray", Options(ray_address="far:1"))
    assert not list(tmp_path.glob("runs/*/metrics.jsonl"))
