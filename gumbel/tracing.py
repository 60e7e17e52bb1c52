"""What JAX knows of a value as it traces: transformations around it, devices that share it."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

_NAME = "get_opaque_trace_state"
_HOME = jax.extend.core if hasattr(jax.extend.core, _NAME) else jax.core  # jax.core before 0.10
# Two states are equal if and only if no transformation began or ended between them.
trace_state: Callable[[], object] = getattr(_HOME, _NAME)

Result = TypeVar("Result")
# What JAX raises where a program asks for the value of what is traced.
_NO_VALUE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


def is_concrete(*trees: Any) -> bool:
    """Whether all arrays are concrete and no trace, such as that of `jit`, is active.

    Example:
      >>> is_concrete({"w": jnp.ones(2)}, 1.0)
      True
    """
    leaves = [*jax.tree.leaves(trees), jnp.zeros(())]
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)


def jit_with(batch: PyTree, function: Callable[..., Result]) -> Callable[..., Result]:
    """Compiles `function(batch, *arguments)` as a function of the arguments.

    The arrays of the batch are arguments of the program: XLA would spend a long time on constants
    of their size. If the function needs to know their values, they are constants all the same.

    Example:
      >>> jit_with({"x": jnp.ones(2), "power": 2}, lambda b, y: y * b["x"] ** b["power"])(
      ...     3
      ... ).tolist()
      [3.0, 3.0]
    """
    leaves, structure = jax.tree.flatten(batch)
    is_array = [isinstance(leaf, jax.Array | np.ndarray) and _has_type(leaf) for leaf in leaves]
    arrays = [leaf for leaf, one in zip(leaves, is_array, strict=True) if one]

    @jax.jit
    def of_arrays(arrays: list[Array], *arguments: Any) -> Result:
        given = iter(arrays)
        pairs = zip(leaves, is_array, strict=True)
        rebuilt = [next(given) if one else leaf for leaf, one in pairs]
        return function(jax.tree.unflatten(structure, rebuilt), *arguments)

    @jax.jit
    def of_constants(*arguments: Any) -> Result:
        return function(batch, *arguments)

    needs_values = False

    def run(*arguments: Any) -> Result:
        nonlocal needs_values
        if not needs_values:
            try:
                return of_arrays(arrays, *arguments)
            except _NO_VALUE:
                needs_values = True
        return of_constants(*arguments)

    return run


def _has_type(leaf: Any) -> bool:
    try:
        jax.typeof(leaf)
    except TypeError:  # such as an array of strings
        return False
    return True


def gathered(tree: PyTree) -> PyTree:
    """Gathers arrays that are sharded over an explicit mesh, so that they can be compared."""
    return jax.tree.map(lambda leaf: np.asarray(leaf) if _is_divided(leaf) else leaf, tree)


def divided_as(tree: PyTree, like: Array) -> PyTree:
    """Shards arrays over an explicit mesh as `like` is sharded, along the same axes.

    On such a mesh, JAX does not combine arrays with different shardings, and the sharding of a
    loop's carry must not change.
    """
    if not has_divided_axis(like):
        return tree
    return jax.tree.map(lambda leaf: jax.sharding.reshard(leaf, jax.typeof(like).sharding), tree)


def whole(array: Array, first: int) -> Array:
    """The array with all axes from `first` on whole on each device of an explicit mesh.

    For what JAX does not do along a divided axis: to take entries by their index, to concatenate,
    to loop over it.
    """
    if not has_divided_axis(array):
        return array
    sharding = jax.typeof(array).sharding
    first += array.ndim if first < 0 else 0
    spec = jax.sharding.PartitionSpec(*sharding.spec[:first], *[None] * max(0, array.ndim - first))
    return jax.sharding.reshard(array, jax.NamedSharding(sharding.mesh, spec))


def varying_axes(arrays: Iterable[Array]) -> frozenset[str]:
    """The axes of `shard_map` or `pmap` along which arrays may differ between devices.

    Without `check_vma`, as in `pmap`, JAX does not track this, and all axes are returned.
    """
    arrays = list(arrays)
    found = set()
    for axis in jax.sharding.get_abstract_mesh().manual_axes:
        known = _varies(jax.lax.pcast(jnp.zeros(()), axis, to="varying"), axis)
        if not known or any(_varies(array, axis) for array in arrays):
            found.add(axis)
    return frozenset(found)


def _varies(array: Array, axis: str) -> bool:
    try:
        jax.lax.pcast(array, axis, to="varying")
    except ValueError:  # it varies already
        return True
    return False


def _is_divided(leaf: object) -> bool:
    if not isinstance(leaf, jax.Array) or isinstance(leaf, jax.core.Tracer):
        return False
    return has_divided_axis(leaf) and not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def has_divided_axis(array: Array) -> bool:
    """Whether an array is sharded over an explicit mesh."""
    return any(axis is not None for axis in jax.typeof(array).sharding.spec)
