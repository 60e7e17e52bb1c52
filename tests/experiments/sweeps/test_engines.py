"""The engines' bookkeeping: groups of runs, open files, workers that die."""

import json
import multiprocessing
import resource
from types import SimpleNamespace
from unittest import mock

import pytest

from experiments.errors import DivergedError, Stopped
from experiments.sweeps import grids, jobs
from experiments.sweeps.engines import Options, Outcome, attempt, process, vmapped
from experiments.training import run, rundir
from experiments.training.signals import Stop
from tests.experiments import small
from tests.experiments.sweeps.launching import jobs_in


def test_runs_of_one_program_are_grouped(tmp_path):
    config = small.config("sbn")
    trials = grids.parse("seed=0,1;batch_size=4,5;learning_rate=1,2", config)
    ours = jobs.jobs_of(config, trials, tmp_path)

    def grouped(jobs, most):
        return vmapped.grouped(jobs, vmapped.limits_of(jobs, Options(workers=most)))

    groups = grouped(ours, 100)
    sizes = [{job.settings.batch_size for job in group} for group in groups]
    assert sizes == [{4}, {5}]
    assert [len(group) for group in groups] == [4, 4]
    assert [len(group) for group in grouped(ours, 3)] == [2, 2, 2, 2]
    seven = (groups[0] * 2)[:7]
    assert [len(group) for group in grouped(seven, 3)] == [3, 3, 1]


@pytest.mark.parametrize(
    ("soft", "hard", "runs", "most", "raised"),
    [
        (1024, 4096, 10, 10, None),  # the limit is high enough as it is
        (1024, 4096, 500, 500, 4 * 500 + 128),
        (256, 256, 500, 32, None),
        (1024, resource.RLIM_INFINITY, 5000, 5000, 4 * 5000 + 128),
    ],
)
def test_vmap_opens_no_more_files_than_it_may(monkeypatch, soft, hard, runs, most, raised):
    limits = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: limits.append(pair))
    assert vmapped.most_open(runs) == most
    assert limits[-1][0] == (raised or soft)


def test_a_worker_gets_on_however_short_the_time(tmp_path, monkeypatch):
    """A slice of a table that ends while workers start would never get on."""
    ours, handed = jobs_in(tmp_path), []

    class Worker:
        job = None

        def __init__(self, *_):
            self.connection, self.theirs = multiprocessing.Pipe()

        def hand(self, job):
            self.job = job
            handed.append(job)
            self.theirs.send(Outcome("stopped"))

        def outcome(self):
            return self.connection.recv()

        def end(self):
            pass

    monkeypatch.setattr(process, "_Worker", Worker)
    process.train(ours, Options(workers=1), Stop(deadline=0.0), pytest.fail)
    assert handed == ours[:1]
    tried = []

    def tries(jobs, *_):
        tried.append(jobs)
        return [Outcome("done")]

    monkeypatch.setattr(process, "attempt", tries)
    monkeypatch.setattr(process, "keep_compilations", lambda: None)
    monkeypatch.setattr(process.signal, "signal", lambda *_: None)
    for name in ("XLA_PYTHON_CLIENT_PREALLOCATE", "NPROC"):
        monkeypatch.setenv(name, "1")
    theirs, connection = multiprocessing.Pipe()
    connection.send(ours[0])
    connection.close()
    process._work(theirs, 0.0)
    assert tried == [[ours[0]]]


def test_a_worker_that_stops_at_the_deadline_is_not_waited_for(tmp_path):
    """It waits for another run."""
    [job, _] = jobs_in(tmp_path)
    worker = SimpleNamespace(job=job, process=SimpleNamespace(join=pytest.fail))
    over = Stop(deadline=0.0)
    process._settle(worker, Outcome("stopped"), process.Queue([]), pytest.fail, over)
    assert worker.job is None
    joined, queue = [], process.Queue([])
    worker = SimpleNamespace(job=job, process=SimpleNamespace(join=lambda: joined.append(1)))
    process._settle(worker, Outcome("stopped"), queue, pytest.fail, Stop())
    assert joined  # by a signal of its own
    assert queue.next() == job


def test_what_diverged_beside_a_run_that_is_stopped_is_recorded(tmp_path, monkeypatch):
    ours = jobs_in(tmp_path)

    def stopped(*_, **__):
        diverged = DivergedError("the cost is not finite")
        raise Stopped(10, 20, 75, {ours[0].workdir: diverged})

    monkeypatch.setattr(run, "train_together", stopped)
    found = attempt.attempt(ours, Stop(), run.Programs())
    assert [outcome.status for outcome in found] == ["failed", "stopped"]
    assert [bool(attempt.divergence(job)) for job in ours] == [True, False]


def test_an_error_is_not_that_of_a_run_in_use(tmp_path, monkeypatch):
    mine, theirs = jobs_in(tmp_path)
    monkeypatch.setattr(run, "Loop", mock.Mock(side_effect=RuntimeError("a bug")))
    monkeypatch.setattr(run.Programs, "compiled", mock.Mock())
    with rundir.locked(theirs.workdir):
        found = attempt.attempt([mine, theirs], Stop(), run.Programs())
    assert [outcome.status for outcome in found] == ["failed", "in_use"]
    assert not (theirs.workdir / "failure.json").exists()


def test_a_run_that_kills_its_worker_again_and_again_fails(tmp_path):
    [job, other] = jobs_in(tmp_path)
    queue = process.Queue([job, other])
    assert queue.next() == job
    tries = 1
    while queue.resume(job):
        assert queue.next() == job
        tries += 1
    assert tries == 3
    assert queue.next() == other
    # One that gains steps between the deaths goes on.
    for step in range(10, 100, 10):
        other.workdir.mkdir(parents=True, exist_ok=True)
        (other.workdir / "metrics.jsonl").write_text(json.dumps({"step": step}) + "\n")
        assert queue.resume(other)
        assert queue.next() == other
