"""Where the workers of a sweep run: on an accelerator of their own, or on a core."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from types import MappingProxyType
from typing import NamedTuple

from experiments.sweeps.engines import Options, accelerators


class Place(NamedTuple):
    """Where a worker runs.

    Attributes:
      core: core that it is pinned to, or None.
      variables: environment variables that show it an accelerator.
    """

    core: int | None = None
    variables: accelerators.Variables = MappingProxyType({})

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Processes started in this block run here."""
        with _on_core(self.core), _environment(self.variables):
            yield


def of_workers(options: Options, runs: int) -> list[Place]:
    """The places of the workers, no more than there are runs."""
    if devices := accelerators.environments(options.devices):
        count = min(options.workers or len(devices), runs)
        return [Place(None, devices[index % len(devices)]) for index in range(count)]
    cores = _cores()
    count = min(options.workers or len(cores), runs)
    pinned = cores if count >= len(cores) else [None]
    return [Place(pinned[index % len(pinned)]) for index in range(count)]


def _cores() -> Sequence[int | None]:
    """The cores that this process may use; where the system cannot pin, as many Nones."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return [None] * (os.cpu_count() or 1)


@contextlib.contextmanager
def _on_core(core: int | None) -> Iterator[None]:
    """Pins processes started in this block to `core`."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def _environment(variables: accelerators.Variables) -> Iterator[None]:
    """Gives processes started in this block these variables, which they have from the start."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
