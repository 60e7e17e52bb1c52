"""Engine `process`: spawned workers, single-threaded; one per accelerator, or else one per core.

A worker sees only its own accelerator; more workers than accelerators share them. On CPU, each is
pinned to its core, but with fewer workers than cores none is, as another sweep would take the same
cores. The runs are handed out one by one; a worker that dies is replaced, and its run resumed.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path

from experiments.errors import UserError
from experiments.sweeps.engines import Job, Options, Outcome, Report, places
from experiments.sweeps.engines.attempt import attempt, fail, no_space
from experiments.sweeps.progress import standing
from experiments.training.compilations import keep_compilations
from experiments.training.run import Programs
from experiments.training.signals import Stop

_POLL_SECONDS = 0.2
_RETRY_SECONDS = 1.0
_DEATHS = 3  # of workers over one run, with no step gained, until it counts as failed


def train(jobs: Sequence[Job], options: Options, stop: Stop, report: Report) -> None:
    """See `engines.Engine`."""
    ours = places.of_workers(options, len(jobs))
    queue = Queue(jobs)
    workers: list[_Worker] = []
    try:
        workers += [_Worker(place, stop.deadline) for place in ours]
        if stop.signum is None:  # each worker gets on, however short the time
            _hand_out(workers, queue)
        while not stop.requested and (queue.waiting or _busy(workers)):
            _hand_out(workers, queue)
            _listen(workers, queue, report, stop)
        if stop.requested:
            _stop(workers, queue, report, stop)
    finally:
        for worker in workers:
            worker.end()


class Queue:
    """The runs still to be handed out, and what is known of those that killed their worker."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.waiting = deque((job, 0.0) for job in jobs)
        self._deaths: dict[Path, tuple[int, int]] = {}

    def next(self) -> Job | None:
        """The first run that may be tried now."""
        for index, (job, not_before) in enumerate(self.waiting):
            if time.monotonic() >= not_before:
                del self.waiting[index]
                return job
        return None

    def retry_later(self, job: Job) -> None:
        """Puts a run that is in use last, to be tried again."""
        self.waiting.append((job, time.monotonic() + _RETRY_SECONDS))

    def resume(self, job: Job) -> bool:
        """Puts the run of a dead worker first; False if that happened too often with no gain."""
        deaths, before = self._deaths.get(job.workdir, (0, 0))
        step = standing(job).step
        deaths = 1 if step > before else deaths + 1
        self._deaths[job.workdir] = deaths, step
        if deaths < _DEATHS:
            self.waiting.appendleft((job, 0.0))
        return deaths < _DEATHS


class _Worker:
    """A worker process as the sweep sees it, with the run that it has."""

    def __init__(self, place: places.Place, deadline: float | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.place, self.deadline = place, deadline
        self.job: Job | None = None
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, deadline), daemon=True)
        with place.taken(), _ctrl_c_ignored():
            self.process.start()
        theirs.close()  # so that the worker's death ends the connection

    def hand(self, job: Job) -> None:
        """Gives the worker a run."""
        self.job = job
        with contextlib.suppress(OSError):  # it is dead, as `outcome` will find
            self.connection.send(job)

    def outcome(self) -> Outcome | None:
        """What became of the run; None if the worker died over it."""
        try:
            received: Outcome = self.connection.recv()
        except (EOFError, OSError):
            return None
        return received

    def end(self) -> None:
        """Ends the process: at once if it is in the middle of a run."""
        self.connection.close()
        if self.job is None:
            self.process.join(10)
        self.process.kill()
        self.process.join()


def _hand_out(workers: Sequence[_Worker], queue: Queue) -> None:
    """Gives the workers that have no run one each."""
    for worker in workers:
        if worker.job is None and (job := queue.next()):
            worker.hand(job)


def _busy(workers: Sequence[_Worker]) -> list[_Worker]:
    return [worker for worker in workers if worker.job]


def _listen(workers: list[_Worker], queue: Queue, report: Report, stop: Stop) -> None:
    """Takes in what has become of runs, and replaces the workers that died."""
    ready = connection.wait([worker.connection for worker in _busy(workers)], _POLL_SECONDS)
    for index, worker in enumerate(workers):
        if worker.connection not in ready:
            continue
        outcome = worker.outcome()
        _settle(worker, outcome, queue, report, stop)
        if not worker.process.is_alive():
            workers[index] = _Worker(worker.place, worker.deadline)


def _stop(workers: Sequence[_Worker], queue: Queue, report: Report, stop: Stop) -> None:
    """Has the workers save their runs, and waits until they have; at a deadline they do so."""
    if stop.signum is not None:
        for worker in workers:
            worker.process.terminate()
    while busy := _busy(workers):
        ready = connection.wait([worker.connection for worker in busy])
        for worker in busy:
            if worker.connection not in ready:
                continue
            _settle(worker, worker.outcome(), queue, report, stop)


def _settle(
    worker: _Worker, outcome: Outcome | None, queue: Queue, report: Report, stop: Stop
) -> None:
    """Takes the worker's run from it and sees to what is next for the run."""
    job, worker.job = worker.job, None
    assert job is not None
    if outcome is not None and outcome.status == "stopped" and stop.requested:
        return  # at its deadline or the sweep's signal; it may wait for another run
    if outcome is None or outcome.status == "stopped":  # by a signal that was not the sweep's
        worker.process.join()
        if not queue.resume(job):
            report(job, fail(job, UserError(_obituary(worker.process.exitcode))))
    elif outcome.status == "no_space":
        raise no_space(job.workdir)
    elif outcome.status == "in_use":
        queue.retry_later(job)
    else:
        report(job, outcome)


def _obituary(exitcode: int | None) -> str:
    code = exitcode or 0
    how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
    return (
        f"its worker died {_DEATHS} times with no step gained ({how}): if memory is short, "
        "use fewer --workers"
    )


@contextlib.contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    """Makes processes started in this block ignore Ctrl-C from their first moment."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _work(jobs: Connection, deadline: float | None) -> None:
    """A worker: trains the runs that it is handed, until there are no more.

    Args:
      jobs: where they come from, and where their outcomes go.
      deadline: deadline of the sweep's `Stop`; all processes of a machine share its clock.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # a GPU may be shared
    os.environ.setdefault("NPROC", "1")  # XLA's threads, where the worker is not pinned
    keep_compilations()
    stop, programs = Stop(deadline=deadline), Programs()

    def on_sigterm(*_: object) -> None:
        stop.signum = signal.SIGTERM

    signal.signal(signal.SIGTERM, on_sigterm)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the sweep's to handle
    threading.Thread(target=_stop_with_parent, args=(stop,), daemon=True).start()
    with contextlib.suppress(EOFError, OSError):  # the sweep is gone, or done
        while stop.signum is None:  # at a deadline, a run that is handed out takes some steps
            [outcome] = attempt([jobs.recv()], stop, programs)
            jobs.send(outcome)


def _stop_with_parent(stop: Stop) -> None:
    """Saves the run and stops if the sweep is killed: the next sweep resumes the run."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        stop.signum = signal.SIGTERM
