"""Engine `ray`: each run a Ray task with its share of cores and GPUs, on a cluster or here.

A cluster gets the code and the data of this machine with the job; its nodes need what
requirements.txt names, and the sweep's directory under the same path. A task whose worker dies is
retried by Ray, and its run resumes from its checkpoint.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax

from experiments.data import cache_arrays, load_arrays
from experiments.data.specs import Arrays
from experiments.errors import UserError, one_line
from experiments.files import ROOT
from experiments.sweeps.engines import Job, Options, Outcome, Report
from experiments.sweeps.engines.attempt import attempt, fail, no_space
from experiments.training.compilations import keep_compilations
from experiments.training.provenance import num_cores
from experiments.training.run import Programs
from experiments.training.rundir import RESULT
from experiments.training.signals import Stop, graceful_stop

_POLL_SECONDS = 0.2
_RETRY_SECONDS = 1.0
_APPEARS_SECONDS = 60.0
_RETRIES = 10  # of a task whose worker dies


def train(jobs: Sequence[Job], options: Options, stop: Stop, report: Report) -> None:
    """See `engines.Engine`."""
    ray = import_ray()
    with _signals_kept():
        connect(ray, options)
    try:
        share = share_of(ray, options)
        remote = ray.remote(**share, max_retries=_RETRIES)(_work)
        # Each node's cache gets the data once; a reference to them costs a task nothing.
        data = {name: ray.put(load_arrays(name)) for name in {job.settings.dataset for job in jobs}}
        variables = variables_of(options)

        def start(job: Job) -> Any:
            return remote.remote(job, data[job.settings.dataset], variables)

        _train(ray, start, jobs, stop, report)
    finally:
        ray.shutdown()


def share_of(ray: ModuleType, options: Options) -> dict[str, float]:
    """The cores and GPUs of a task, which sees no other GPUs.

    Raises:
      UserError: no node has so many, so that the task would wait forever.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most = {name: max(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}
    gpus = float(most["GPU"] > 0) if options.ray_gpus is None else options.ray_gpus
    if gpus > 1 and not gpus.is_integer():
        raise UserError(f"--ray_gpus_per_run={gpus}: give an integer, or a part of 1")
    for flag, asked, name in (("cpus", options.ray_cpus, "CPU"), ("gpus", gpus, "GPU")):
        if asked > most[name]:
            raise UserError(
                f"--ray_{flag}_per_run={asked:g}: the largest node has {most[name]:g}; ask for less"
            )
    share = {"CPU": options.ray_cpus, "GPU": gpus}
    if not any(all(node.get(name, 0.0) >= share[name] for name in share) for node in nodes):
        raise UserError(
            f"--ray_cpus_per_run={options.ray_cpus:g} and --ray_gpus_per_run={gpus:g}: no node has "
            "both; ask for less of one"
        )
    return {"num_cpus": options.ray_cpus, "num_gpus": gpus}


def variables_of(options: Options) -> dict[str, str]:
    """What the environment of a task says of its share."""
    # Ray gives a share of the cores by count alone, and XLA would start a thread for each core of
    # the machine: this tells it that there are fewer.
    variables = {"NPROC": str(max(1, int(options.ray_cpus)))}
    variables["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # tasks may share a GPU
    if options.ray_gpus == 0:  # Ray leaves a node's GPUs in sight of a task that asks for none
        variables["JAX_PLATFORMS"] = "cpu"
    return variables


def _train(
    ray: ModuleType, start: Callable[[Job], Any], jobs: Sequence[Job], stop: Stop, report: Report
) -> None:
    running = {start(job): job for job in jobs}
    waiting: list[tuple[Job, float]] = []
    while (running or waiting) and not stop.requested:
        due = [held for held in waiting if time.monotonic() >= held[1]]
        waiting = [held for held in waiting if held not in due]
        running |= {start(job): job for job, _ in due}
        for job in _ended(ray, running, report):
            waiting.append((job, time.monotonic() + _RETRY_SECONDS))
    for ref in running:
        ray.cancel(ref)  # as Ctrl-C in its worker, which saves the run and leaves
    while running:
        _ended(ray, running, report)


def _ended(ray: ModuleType, running: dict[Any, Job], report: Report) -> list[Job]:
    """Takes the tasks that have ended out of `running`; returns the jobs to be tried again.

    Those are in use, or their node was told to stop.
    """
    if not running:
        time.sleep(_POLL_SECONDS)
        return []
    again = []
    for ref in ray.wait(list(running), timeout=_POLL_SECONDS)[0]:
        job = running.pop(ref)
        outcome = _outcome(ray, ref, job)
        if outcome.status == "no_space":
            raise no_space(job.workdir)
        if outcome.status == "done" and not _appears(job.workdir / RESULT):
            outcome = fail(job, UserError("its result is not here: all nodes must share --workdir"))
        if outcome.status in ("in_use", "stopped"):
            again.append(job)
        else:
            report(job, outcome)
    return again


def _appears(path: Path) -> bool:
    """Whether a file is there; waits for a network file system to show what another node wrote."""
    end = time.monotonic() + _APPEARS_SECONDS
    while time.monotonic() < end:
        # Listing the directory has it looked up anew.
        if path.parent.is_dir() and path in path.parent.iterdir():
            return True
        time.sleep(_POLL_SECONDS)
    return False


def _outcome(ray: ModuleType, ref: Any, job: Job) -> Outcome:
    """What became of a task that has ended."""
    try:
        outcome: Outcome = ray.get(ref)
    except ray.exceptions.TaskCancelledError:
        return Outcome("stopped")
    except ray.exceptions.RayError as error:
        return fail(job, UserError(f"its Ray task failed: {one_line(error)}"))
    return outcome


def _work(job: Job, data: Arrays | None, variables: Mapping[str, str]) -> Outcome:
    """The task: trains or resumes one run in a Ray worker."""
    set_environment(variables)
    cache_arrays(job.settings.dataset, data)
    keep_compilations()
    with graceful_stop() as stop:
        return attempt([job], stop, _programs)[0]


def set_environment(variables: Mapping[str, str]) -> None:
    """Keeps this worker to its share of the node, before jax looks for devices."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)
    if "JAX_PLATFORMS" in variables:  # which jax has read already
        jax.config.update("jax_platforms", variables["JAX_PLATFORMS"])


_programs = Programs()  # Ray uses a worker process again for later tasks


def import_ray() -> ModuleType:
    """Ray, which is an extra of this project.

    Raises:
      UserError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise UserError(
            "--engine=ray needs Ray, which is not installed: pip install -e '.[ray]', or choose "
            "--engine=process"
        ) from None
    module: ModuleType = ray
    return module


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Puts the handlers of SIGTERM and Ctrl-C back, which Ray replaces by its own."""
    here = threading.current_thread() is threading.main_thread()
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT) if here}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def connect(ray: ModuleType, options: Options) -> None:
    """Joins the cluster at the address, or starts one on this machine.

    Raises:
      UserError: there is no cluster at the address, or the options are not for this engine.
    """
    quiet = {"log_to_driver": False, "logging_level": "warning", "configure_logging": True}
    if options.devices is not None:
        raise UserError("--devices is not for --engine=ray: give --ray_gpus_per_run")
    address = options.ray_address or os.environ.get("RAY_ADDRESS")
    if not address:
        workers = options.workers or num_cores()
        ray.init(address="local", num_cpus=workers, include_dashboard=False, **quiet)
        return
    code = [str(ROOT / package) for package in ("gumbel", "experiments", "configs")]
    try:
        ray.init(address=address, runtime_env={"py_modules": code}, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        given, without = (
            ("--ray_address", "leave it out")
            if options.ray_address
            else ("RAY_ADDRESS", "unset it in the environment")
        )
        raise UserError(
            f"{given}={address}: no Ray cluster can be joined there ({one_line(error)}); "
            f"{without} to start one on this machine"
        ) from error
