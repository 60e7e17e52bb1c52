"""What runs that train as one program will take: memory, bytes of a checkpoint, and time."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.settings import Settings
from experiments.training import memory, out_of_memory
from experiments.training.compiled import Compiled
from experiments.training.placement import Placement


class Speed(NamedTuple):
    """How fast a program trains.

    Attributes:
      steps_per_second: steps that all its runs take at once, per second.
      compile_seconds: how much longer its first call took than the second; less if the compiler's
        cache had the program.
    """

    steps_per_second: float
    compile_seconds: float


class Estimate(NamedTuple):
    """What runs of one program take together.

    Attributes:
      memory: bytes on the devices, as estimated before the first step; see `memory`.
      state: bytes that a checkpoint of each run holds.
      speed: None if it was not to be measured, or if the device lacks the memory.
    """

    memory: int
    state: int
    speed: Speed | None


def estimate(settings: Settings, placement: Placement, *, timed: bool) -> Estimate:
    """The estimate for as many runs of the settings as the placement has rows.

    Args:
      settings: settings of any of the runs.
      placement: placement of the runs on devices.
      timed: whether to measure the speed: by the second of two calls of the program that training
        calls, so what is compiled here need not be compiled again. The states are zeros, on
        which a step takes the same time.

    Raises:
      UserError: as `Compiled`.
    """
    compiled = Compiled(settings, placement)
    needed = max(need.size for need in compiled.needs())
    arguments = compiled.shapes_of_run()
    state = memory.size_of(arguments[2]) // placement.rows
    held = memory.device_memory(placement.devices)
    if not timed or (held is not None and needed > held):
        return Estimate(needed, state, None)
    try:
        with out_of_memory.explaining(placement.rows):
            speed = _speed(compiled, arguments)
    except out_of_memory.OutOfMemoryError:
        return Estimate(needed, state, None)
    return Estimate(needed, state, speed)


def _speed(compiled: Compiled, shapes: Sequence[Any]) -> Speed:
    def zeros(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), tree)

    put = compiled.placement.put
    dynamic, images, state, indices, first_step, moving = shapes
    dynamic, state = (put(zeros(tree), of_runs=True) for tree in (dynamic, state))
    rows, seconds = zeros(indices), []
    for _ in range(2):
        began = time.perf_counter()
        state, _trace = compiled.run(dynamic, images, state, rows, first_step, moving)
        jax.block_until_ready(state)
        seconds.append(time.perf_counter() - began)
    first, second = seconds
    return Speed(indices.shape[1] / second, max(0.0, first - second))
