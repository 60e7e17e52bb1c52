"""The state of JAX's traces, used to detect sampling inside a transformation."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

_NAME = "get_opaque_trace_state"
_HOME = jax.extend.core if hasattr(jax.extend.core, _NAME) else jax.core  # jax.core before 0.10
# Two states are equal if and only if no transformation began or ended between them.
trace_state: Callable[[], object] = getattr(_HOME, _NAME)


def is_concrete(*trees: Any) -> bool:
    """Whether all arrays are concrete and no trace, such as that of `jit`, is active.

    Example:
      >>> is_concrete({"w": jnp.ones(2)}, 1.0)
      True
    """
    leaves = [*jax.tree.leaves(trees), jnp.zeros(())]
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)


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
