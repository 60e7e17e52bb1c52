"""Which devices train, and what each of them has: a part of the batch, or some of the runs.

A single run divides its batch: the compiler partitions the program of one device, so that a mean
over the batch, a moving average or a baseline covers the whole batch by construction. Several runs
are distributed whole, and no device waits for another. Draws come from the keys alone, so the
numbers are those of one device to float32 rounding.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments.errors import UserError
from experiments.settings import Settings
from experiments.training import backend

Tree = TypeVar("Tree")
Function = Callable[..., Any]

_BATCH, _RUNS = "batch", "runs"


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where the arrays of runs that train together lie.

    Attributes:
      rows: length of their leading axis of runs; rows beyond the runs are idle.
      mesh: mesh of the devices, with one axis, which is sharded; None for jax's default device.
    """

    rows: int = 1
    mesh: Mesh | None = None

    @classmethod
    def of_batch(cls, settings: Settings, count: int | None) -> Self:
        """A single run whose batches are divided among devices.

        Args:
          settings: settings of the run.
          count: number of devices; None for all devices of all processes.

        Raises:
          UserError: there are fewer devices, or a batch does not divide among them.
        """
        devices = select_devices(backend.devices(), count)
        if len(devices) == 1:
            return cls()
        sizes = {name: getattr(settings, name) for name in ("batch_size", "eval_batch_size")}
        uneven = [f"config.{name}={size}" for name, size in sizes.items() if size % len(devices)]
        if uneven:
            fits = math.gcd(*sizes.values())
            fewer = max(n for n in range(1, len(devices)) if fits % n == 0)
            # Several processes use all of their devices.
            fewer_devices = f", or --devices={fewer}" if jax.process_count() == 1 else ""
            raise UserError(
                f"{' and '.join(uneven)}: not a multiple of {len(devices)} devices; give "
                f"{'one' if len(uneven) == 1 else 'multiples'}{fewer_devices}"
            )
        return cls(1, _mesh(devices, _BATCH))

    @classmethod
    def of_runs(cls, runs: int, count: int | None) -> Self:
        """Runs that are divided among this process's devices, as evenly as they go.

        Args:
          runs: how many there are.
          count: number of devices; None for all that this process has.

        Raises:
          UserError: there are fewer devices.
        """
        devices = select_devices(backend.local_devices(), count)
        each = -(-runs // len(devices))
        used = -(-runs // each)  # 5 runs on 4 devices are 2 each on 3 of them
        if used == 1:
            return cls(runs)
        return cls(used * each, _mesh(devices[:used], _RUNS))

    @property
    def devices(self) -> int:
        """How many there are."""
        return 1 if self.mesh is None else self.mesh.size

    @property
    def spreads_batch(self) -> bool:
        """Whether the devices share each batch."""
        return self.mesh is not None and self.mesh.axis_names == (_BATCH,)

    def spread(self, batch: jax.Array) -> jax.Array:
        """Within a compiled function: the array, divided among the devices along its first axis.

        If it does not divide evenly, this is left to the compiler.
        """
        if self.mesh is None or not self.spreads_batch or len(batch) % self.mesh.size:
            return batch
        return jax.lax.with_sharding_constraint(batch, self._sharding(_BATCH))

    def split(self, function: Function, in_axes: tuple[int | None, ...]) -> Function:
        """The function of runs, each device having its own; `in_axes` are 0 where runs are."""
        if self.mesh is None or self.spreads_batch:
            return function
        runs = PartitionSpec(_RUNS)
        specs = tuple(PartitionSpec() if axis is None else runs for axis in in_axes)
        # What is the same on all devices and what is not is known: there is nothing to check.
        return jax.shard_map(
            function, mesh=self.mesh, in_specs=specs, out_specs=runs, check_vma=False
        )

    def jit(self, function: Function, **options: Any) -> Any:
        """`jax.jit`; what goes in and comes out is whole on every device that shares a batch."""
        if self.spreads_batch:
            everywhere = self._sharding()
            options |= {"in_shardings": everywhere, "out_shardings": everywhere}
        return jax.jit(function, **options)

    def put(self, tree: Tree, *, of_runs: bool) -> Tree:
        """Arrays of the host on the devices.

        Args:
          tree: pytree of arrays.
          of_runs: whether they have the leading axis of runs; else every device has them whole.
        """
        if self.mesh is None:
            return jax.tree.map(jnp.asarray, tree)
        divided = of_runs and not self.spreads_batch
        sharding = self._sharding(_RUNS) if divided else self._sharding()

        def placed(leaf: Any) -> jax.Array:
            array = np.asarray(leaf)
            return jax.make_array_from_callback(array.shape, sharding, lambda part: array[part])

        return jax.tree.map(placed, tree)

    def padded(self, tree: Tree) -> Tree:
        """Arrays of the host with a leading axis of runs, filled up with repeats of the last."""

        def filled(leaf: np.ndarray) -> np.ndarray:
            last = np.repeat(leaf[-1:], self.rows - len(leaf), axis=0)
            return np.concatenate([leaf, last]) if len(last) else leaf

        return jax.tree.map(filled, tree)

    def _sharding(self, *axes: str) -> NamedSharding:
        assert self.mesh is not None
        return NamedSharding(self.mesh, PartitionSpec(*axes))


# Of the settings of runs that share a program, and their number.
PlacementRule = Callable[[Settings, int], Placement]
ALONE = Placement()


def one_device(_settings: Settings, runs: int) -> Placement:
    """All runs on jax's default device."""
    return Placement(runs)


def select_devices(devices: list[jax.Device], count: int | None) -> list[jax.Device]:
    """The first devices, or all.

    Raises:
      UserError: there are fewer.
    """
    if count is None:
        return devices
    if jax.process_count() > 1 and count != len(jax.devices()):
        raise UserError(
            f"--devices={count}: the processes of this run have {len(jax.devices())} devices and "
            "use them all; leave it out"
        )
    if count > len(devices):
        raise UserError(
            f"--devices={count}: jax finds {len(devices)} here ({devices[0].platform}); give at "
            "most that"
        )
    return devices[:count]


def define_flags(values: flags.FlagValues, default: str) -> None:
    """The flag `--devices`; `default` says what happens without it."""
    text = f"number of devices to train on, or all; {default}"
    flags.DEFINE_string("devices", None, text, flag_values=values)


def count_of(text: str | None, default: int | None) -> int | None:
    """What `--devices` says: a number, or None for all.

    Args:
      text: value of the flag.
      default: the result if it is not given.

    Raises:
      UserError: it is neither a number of at least 1 nor `all`.

    Example:
      >>> count_of("4", 1), count_of("all", 1), count_of(None, 1)
      (4, None, 1)
    """
    if text is None:
        return default
    if text == "all":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--devices={text}: give a number of at least 1, or all")
    return int(text)


def _mesh(devices: list[jax.Device], axis: str) -> Mesh:
    return jax.make_mesh((len(devices),), (axis,), (AxisType.Auto,), devices=devices)
