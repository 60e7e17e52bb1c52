"""Where the workers of a sweep run: on an accelerator of their own, or on a core."""

import contextlib
import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from experiments.sweeps.engines import Options, accelerators

_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


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
    """The cores that this process may use.

    As many Nones where the system cannot pin, or where a container's share is of fewer cores than
    it sees: others use them, too.
    """
    cores: Sequence[int | None] = [None] * (os.cpu_count() or 1)
    if sys.platform == "linux" and hasattr(os, "sched_getaffinity"):
        cores = sorted(os.sched_getaffinity(0))
    share = _share()
    return [None] * share if share is not None and share < len(cores) else cores


def _share() -> int | None:
    """The cores' worth of time that the container may use, rounded up; None if all of it."""
    try:  # microseconds of each period, or "max"
        quota, period = _CPU_QUOTA.read_text().split()
        return max(1, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def _on_core(core: int | None) -> Iterator[None]:
    """Pins processes started in this block to `core`."""
    if core is None or sys.platform != "linux":
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
