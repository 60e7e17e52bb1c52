"""Ways to train the runs of a sweep; each gives the same results, to float32 rounding.

- `process`: spawned worker processes, one a core;
- `vmap`: all runs that share a program as one program, on this process's device;
- `ray`: Ray tasks, on a cluster or on this machine.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from absl import flags

from experiments.sweeps.engines.attempt import Outcome
from experiments.training.run_state import Job
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
    "load",
]

Report = Callable[[Job, Outcome], object]

ENGINES = {
    "process": "experiments.sweeps.engines.process",
    "vmap": "experiments.sweeps.engines.vmapped",
    "ray": "experiments.sweeps.engines.ray_tasks",
}


class Options(NamedTuple):
    """What the command line says to an engine.

    Attributes:
      workers: how many runs to train at once; None for one a core.
      ray_address: of the Ray cluster to join; None to start one on this machine.
    """

    workers: int | None = None
    ray_address: str | None = None


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
        "runs at a time; by default one per core, or all with vmap",
        lower_bound=1,
        **define,
    )


def load(name: str) -> Engine:
    """The engine of this name, whose module is imported only now."""
    engine: Engine = importlib.import_module(ENGINES[name]).train
    return engine


def default() -> str:
    """The engine for this machine: `vmap` if jax finds an accelerator, else `process`."""
    import jax

    return "process" if jax.default_backend() == "cpu" else "vmap"
