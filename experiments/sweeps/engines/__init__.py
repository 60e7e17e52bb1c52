"""Ways to train the runs of a sweep; each gives the same results, to float32 rounding.

- `process`: spawned worker processes, one per accelerator, or one per core where there is none;
- `vmap`: all runs that share a program as one program, divided among this machine's devices;
- `ray`: Ray tasks, on a cluster or on this machine, each with the share that it asks for.
"""

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self

from absl import flags

from experiments.errors import UserError
from experiments.sweeps.engines.attempt import Outcome
from experiments.training import backend, placement
from experiments.training.job import Job
from experiments.training.signals import Stop

__all__ = [
    "ENGINES",
    "Engine",
    "Job",
    "Options",
    "Outcome",
    "Report",
    "default",
    "define_flags",
    "engine_of_flags",
    "load",
]

Report = Callable[[Job, Outcome], object]

ENGINES = {
    "process": "experiments.sweeps.engines.process",
    "vmap": "experiments.sweeps.engines.vmapped",
    "ray": "experiments.sweeps.engines.ray_tasks",
}

_RAY_FLAGS = ("ray_address", "ray_cpus_per_run", "ray_gpus_per_run")


class Options(NamedTuple):
    """What the command line says to an engine.

    Attributes:
      workers: runs at a time; None for one per accelerator or core, with `vmap` 256 per device.
      devices: how many accelerators to use; None for all of this machine.
      ray_address: address of the Ray cluster to join; None for RAY_ADDRESS, or else a new one.
      ray_cpus, ray_gpus: what is requested from Ray for each run, which may be a fraction of a GPU;
        None for one GPU if there is any.
    """

    workers: int | None = None
    devices: int | None = None
    ray_address: str | None = None
    ray_cpus: float = 1.0
    ray_gpus: float | None = None

    @classmethod
    def of_flags(cls, given: Mapping[str, Any]) -> Self:
        """The options that the flags of `define_flags` say.

        Raises:
          UserError: a flag is not what it should be.
        """
        return cls(
            given["workers"],
            placement.count_of(given["devices"], None),
            given["ray_address"],
            1.0 if given["ray_cpus_per_run"] is None else given["ray_cpus_per_run"],
            given["ray_gpus_per_run"],
        )


class Engine(Protocol):
    """Trains jobs, each to its `result.json` or its `failure.json`."""

    def __call__(self, jobs: Sequence[Job], options: Options, stop: Stop, report: Report) -> None:
        """Reports each job that is done or has failed; returns early if asked to stop.

        A job that another process trains is waited for, and taken over if that process leaves it.

        Raises:
          UserError: the engine cannot work here.
          OSError: there is no space left.
        """


def define_flags(values: flags.FlagValues) -> None:
    """The flags of commands that train with an engine."""
    define: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_enum(
        "engine",
        None,
        list(ENGINES),
        "how to train: process is the default on CPU, vmap on an accelerator",
        **define,
    )
    flags.DEFINE_integer(
        "workers",
        None,
        "runs at a time; by default one per accelerator or core, with vmap 256 per device",
        lower_bound=1,
        **define,
    )
    placement.define_flags(values, "by default all of this machine")
    flags.DEFINE_string(
        "ray_address",
        None,
        "the Ray cluster to join; by default RAY_ADDRESS, or one started on this machine",
        **define,
    )
    flags.DEFINE_float(
        "ray_cpus_per_run",
        None,
        "CPU cores requested from Ray for each run; by default 1",
        lower_bound=0.0,
        **define,
    )
    flags.DEFINE_float(
        "ray_gpus_per_run",
        None,
        "GPUs requested from Ray for each run, or a fraction of one; by default 1 if there is any",
        lower_bound=0.0,
        **define,
    )


def engine_of_flags(given: Mapping[str, Any]) -> tuple[str, Options]:
    """The engine that the flags ask for, by name, and its options.

    Raises:
      UserError: a flag is not what it should be, or two of them do not go together.
    """
    options = Options.of_flags(given)
    engine = given["engine"] or ("ray" if options.ray_address else default())
    asked = [flag for flag in _RAY_FLAGS if given[flag] not in (None, "")]
    if asked and engine != "ray":
        how = "is given" if given["engine"] else "is the default here"
        raise UserError(f"--{asked[0]} is for --engine=ray, and --engine={engine} {how}")
    if options.ray_address and options.workers:
        raise UserError("--workers is for a cluster started here: omit it or --ray_address")
    if engine == "ray" and options.workers and (joined := os.environ.get("RAY_ADDRESS")):
        raise UserError(
            f"--workers is for a cluster started here, and RAY_ADDRESS={joined} names one to join: "
            "omit --workers or unset RAY_ADDRESS"
        )
    return engine, options


def load(name: str) -> Engine:
    """The engine of this name, whose module is imported only now."""
    engine: Engine = importlib.import_module(ENGINES[name]).train
    return engine


def default() -> str:
    """The engine for this machine: `vmap` if jax finds an accelerator, else `process`."""
    return "process" if backend.local_devices()[0].platform == "cpu" else "vmap"
