"""Sums of many costs, a chunk of them in memory at a time.

    S = sum_n f(n),    f(n) of shape [B] or []

If a chunk and its backward pass fit the cache of a CPU, this is also faster than all at once.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, Float

from gumbel.arguments import check_integer
from gumbel.numerics import upcast, zero_that_varies_as
from gumbel.programs import canonical_convolutions, hoist, num_bytes
from gumbel.types import Cost

Terms = Callable[[Array], Cost]

CACHE_BYTES = 1 << 24  # of a chunk's intermediate results, by default, on CPU


def sum_terms(terms: Terms, count: int, chunk_size: int | None) -> Cost:
    """The sum of `terms(0)` to `terms(count - 1)`; the backward pass recomputes each chunk.

    Args:
      terms: function of an index; what does not depend on the index is computed once.
      count: number of terms.
      chunk_size: how many terms are held in memory at once; all if `None`.

    Example:
      >>> sum_terms(lambda n: n * jnp.ones(2), 5, 2).tolist()
      [10.0, 10.0]
    """
    if chunk_size is None or check_integer(chunk_size, "chunk_size", least=1) >= count:
        return jnp.sum(jax.vmap(terms)(jnp.arange(count)), axis=0)
    arrays, chunk, chunks = _chunked(terms, count, chunk_size)
    return _add(jax.checkpoint(canonical_convolutions(chunk)), arrays, chunks)


def mean(terms: Terms, count: int, chunk_size: int | None) -> tuple[Float[Array, ""], Cost]:
    """The mean of the sum over its entries, and the sum itself as a constant.

    The gradient of each chunk is computed together with its terms. This requires a mean: the
    weights of a general reduction would be known only after the last chunk. Derivatives of any
    order are correct.

    Args:
      terms, count: see `sum_terms`.
      chunk_size: see `sum_terms`; by default, as many terms as fit the cache of a CPU, and all of
        them on other devices.

    Example:
      >>> f = lambda x: mean(lambda n: n * x * jnp.ones(2), 5, 2)[0]
      >>> float(f(3.0)), float(jax.grad(f)(3.0))
      (30.0, 10.0)
    """
    if chunk_size is None:
        chunk_size = _fitting(terms) if jax.default_backend() == "cpu" else count
    if check_integer(chunk_size, "chunk_size", least=1) >= count:
        cost = sum_terms(terms, count, None)
        return jnp.mean(cost), jax.lax.stop_gradient(cost)
    arrays, chunk, chunks = _chunked(terms, count, chunk_size)

    def both(arrays: list[Array], numbers: Array) -> tuple[Float[Array, ""], Cost]:
        cost = chunk(arrays, numbers)
        return jnp.mean(cost), cost

    @jax.custom_jvp
    def found(arrays: list[Array]) -> tuple[Float[Array, ""], Cost]:
        return _add(canonical_convolutions(both), arrays, chunks)

    def rule(primals: Any, tangents: Any) -> Any:
        [arrays], [moves] = primals, tangents
        moved = [index for index, move in enumerate(moves) if _moves(move)]

        def gradient(arrays: list[Array], numbers: Array) -> Any:
            def of_moved(some: list[Array]) -> tuple[Float[Array, ""], Cost]:
                everything = list(arrays)
                for index, array in zip(moved, some, strict=True):
                    everything[index] = array
                return both(everything, numbers)

            some = [arrays[index] for index in moved]
            (_, cost), slopes = jax.value_and_grad(of_moved, has_aux=True)(some)
            return jnp.mean(cost), cost, slopes

        value, cost, slopes = _add(canonical_convolutions(gradient), arrays, chunks)
        pairs = zip(moved, slopes, strict=True)
        products = [jnp.sum(slope * moves[index]).real for index, slope in pairs]
        zero = jnp.zeros_like(value)
        return (value, cost), (sum(products, zero), jnp.zeros_like(cost))

    found.defjvp(rule, symbolic_zeros=True)
    value, cost = found(arrays)
    return value, jax.lax.stop_gradient(cost)


def _fitting(terms: Terms) -> int:
    """How many terms have intermediate results of `CACHE_BYTES`, not counting shared ones."""
    number = jnp.zeros((), jnp.int32)
    arrays, rest = hoist(terms, number)
    size = num_bytes(rest, arrays, number)
    # In a program for export the batch may be of any size.
    return 1 if export.is_symbolic_dim(size) else max(1, CACHE_BYTES // max(1, size))


def _chunked(
    terms: Terms, count: int, chunk_size: int
) -> tuple[list[Array], Callable[[list[Array], Array], Cost], np.ndarray]:
    """The arrays that do not depend on the index, the sum of a chunk, and the chunks' indices.

    All chunks have one size; the last one is padded with indices whose terms count as 0. Arrays of
    16 bits are widened here and narrowed in each chunk, so that the chunks' gradients, too, are
    added in float32.
    """
    chunks = even_chunks(count, chunk_size)
    arrays, rest = hoist(terms, jnp.zeros((), jnp.int32))
    dtypes = [array.dtype for array in arrays]

    def chunk(arrays: list[Array], numbers: Array) -> Cost:
        narrow = [
            array if array.dtype == dtype else array.astype(dtype)  # keys cannot be cast
            for array, dtype in zip(arrays, dtypes, strict=True)
        ]
        found = jax.vmap(rest, in_axes=(None, 0))(narrow, numbers)
        if chunks.size > count:
            there = (numbers < count).reshape(-1, *[1] * (found.ndim - 1))
            found = jnp.where(there, found, 0)
        return jnp.sum(found, axis=0)

    return list(map(_wide, arrays)), chunk, chunks


def even_chunks(count: int, chunk_size: int) -> np.ndarray:
    """The numbers from 0 to `count - 1` in rows of one size; the last row may extend beyond.

    A NumPy array, because the derivative rule of `mean` may run after the trace around it ended.

    Example:
      >>> even_chunks(5, 4).tolist()
      [[0, 1, 2], [3, 4, 5]]
    """
    num_chunks = -(-count // chunk_size)
    size = -(-count // num_chunks)
    return np.arange(num_chunks * size, dtype=np.int32).reshape(num_chunks, size)


def _add(function: Callable[..., Any], arrays: Sequence[Array], chunks: np.ndarray) -> Any:
    """Sums what a function returns for each chunk, one chunk after another, 16 bits in float32."""
    shapes = jax.eval_shape(function, arrays, chunks[0])
    zero = zero_that_varies_as(*arrays)

    def start(leaf: Any) -> Array:
        empty = _wide(jnp.zeros_like(leaf))
        return empty + zero.astype(empty.dtype)

    def step(so_far: Any, numbers: Array) -> tuple[Any, None]:
        found = function(arrays, numbers)
        return jax.tree.map(lambda total, new: total + _wide(new), so_far, found), None

    totals = jax.lax.scan(step, jax.tree.map(start, shapes), jnp.asarray(chunks))[0]
    return jax.tree.map(lambda total, leaf: total.astype(leaf.dtype), totals, shapes)


def _wide(array: Array) -> Array:
    """Floats in at least float32, as sums are formed; integers, keys and complex numbers as is."""
    return upcast(array) if jnp.issubdtype(array.dtype, jnp.floating) else array


def _moves(tangent: Any) -> bool:
    """Whether a tangent is not known to be 0."""
    return not isinstance(tangent, jax.custom_derivatives.SymbolicZero)
