"""The leaves of a state as a checkpoint sees them: names, dtypes, shapes, bytes and a digest."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any
# Settings of jax and XLA that change a run's numbers, by name: see `provenance.numerics`.
Numerics = Mapping[str, str | bool]


class Leaf(NamedTuple):
    """What a leaf looks like from outside: its name in the tree, its dtype and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        sizes = ",".join(map(str, self.shape))
        return f"{self.name or 'state'} {self.dtype}[{sizes}]"


def named(tree: PyTree) -> dict[str, Any]:
    """The leaves by name, such as `params/encoder/kernel`, in the tree's own order."""
    pairs = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in pairs}


def described(state: PyTree) -> list[Leaf]:
    """The leaves of a state, in the tree's own order.

    Raises:
      TypeError: a leaf is neither an array nor a number, or is a typed PRNG key.
    """
    leaves = []
    for name, value in named(state).items():
        array = value if hasattr(value, "dtype") else np.asarray(value)
        if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            raise TypeError(f"{name} is a typed PRNG key: store jax.random.key_data of it")
        if array.dtype.kind in "OSU":
            raise TypeError(f"{name} is a {type(value).__name__}, not an array or a number")
        leaves.append(Leaf(name, array.dtype.name, tuple(array.shape)))
    return leaves


def digest(
    step: int, leaves: Sequence[Leaf], numerics: Numerics, arrays: Sequence[np.ndarray]
) -> str:
    """SHA-256 of the step, the leaves' names, dtypes and shapes, the numerics, and the bytes."""
    head = json.dumps([step, leaves, dict(numerics)], sort_keys=True)
    found = hashlib.sha256(head.encode() + b"\0")
    for array in arrays:
        found.update(array.tobytes())
    return found.hexdigest()


def filled(like: PyTree, arrays: Sequence[np.ndarray]) -> PyTree:
    """A tree like another one, with these arrays for its leaves, each as its kind of leaf."""
    targets, structure = jax.tree.flatten(like)
    return jax.tree.unflatten(structure, map(_like, targets, arrays))


def _like(target: Any, array: np.ndarray) -> Any:
    """`array` as the kind of leaf that `target` is."""
    if isinstance(target, jax.Array):
        # An uncommitted array stays free to follow the others, as it was in the first run.
        return jax.device_put(array, target.sharding if target.committed else None)
    if isinstance(target, jax.ShapeDtypeStruct):
        return jax.device_put(array, target.sharding)
    if isinstance(target, np.ndarray):
        return array
    return type(target)(array.item())


def first_difference(saved: Sequence[Leaf], wanted: Sequence[Leaf]) -> tuple[str, str]:
    """The first leaf in which two descriptions differ, in words, from both sides."""
    before, after = ({leaf.name: leaf for leaf in leaves} for leaves in (saved, wanted))
    for name in [*before, *after]:
        if before.get(name) != after.get(name):
            return str(before.get(name, f"no {name}")), str(after.get(name, f"no {name}"))
    return "its leaves in one order", "them in another"
