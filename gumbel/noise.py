"""Random numbers with exact tails, and the noise made of them.

A float32 uniform number on a grid of 2^-23 cannot resolve rarer events, and Gumbel noise made from
it is at most about 16, so rare values among 1,000,000 are never drawn or drawn too often. Here the
numbers keep their relative resolution down to 2^-47, so events with probability 1e-12 have the
right frequency.

The random words are those of `jax.random.split`: one evaluation of the hash gives two words, where
`jax.random.bits` gives one. For Threefry keys the hash is unrolled here, which on CPU is several
times as fast as JAX's loop.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt32

from gumbel.arguments import check_key
from gumbel.types import PRNGKey

Words = UInt32[Array, " n"]
Transform = Callable[[Words, Words, DTypeLike], Array]

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_NUM_CHUNKS = 2


def uniform(
    key: PRNGKey, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
) -> Float[Array, "..."]:
    """Uniform numbers in (0, 1], with cells of 2^-47 near 0 (2^-64 in float64).

    `P(u < p)` is p within 2^-47: within 1e-4 p for p from 1e-10 up. Near 1 they are as coarse as
    their dtype, and the largest are rounded to 1: test `u < p` for the rarer of two events.

    Example:
      >>> bool(jnp.all(uniform(jax.random.key(0), (100,)) > 2.0**-49))
      True
    """
    return _noise(_uniform, key, shape, dtype)


def exponential(
    key: PRNGKey, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
) -> Float[Array, "..."]:
    """Standard exponential noise, `-log(1 - u)`, positive and finite, with cells of 2^-47 near 0.

    `argmin_k E_k / p_k` is a categorical sample: a race, in which the small values decide.

    Example:
      >>> bool(jnp.all(exponential(jax.random.key(0), (100,)) > 0))
      True
    """
    return _noise(_exponential, key, shape, dtype)


def gumbel_noise(
    key: PRNGKey, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
) -> Float[Array, "..."]:
    """Standard Gumbel noise, `-log(E)` with `E` exponential; always finite.

    It lies between -2.9 and 33.3 in float32. The upper tail decides which of many rare values is
    the largest, and is right to 27.6, which has probability 1e-12.

    Args:
      key: PRNG key.
      shape: shape of the result.
      dtype: floating dtype of the result; 16-bit noise is drawn in float32 and then cast.

    Raises:
      TypeError: `key` is not one PRNG key, `shape` is not a tuple, or `dtype` is not a floating
        dtype.

    Example:
      >>> gumbel_noise(jax.random.key(0), (2, 3), jnp.bfloat16).shape
      (2, 3)
    """
    return _noise(_gumbel, key, shape, dtype)


def logistic_noise(
    key: PRNGKey, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
) -> Float[Array, "..."]:
    """Standard logistic noise, `log(u) - log(1 - u)` with `u` uniform on (0, 1); always finite.

    This is the distribution of the difference of two independent standard Gumbel variables. In
    float32 it lies within +-34, and both tails are right to +-27.6, which have probability 1e-12.

    Args:
      key: PRNG key.
      shape: shape of the result.
      dtype: floating dtype of the result; 16-bit noise is drawn in float32 and then cast.

    Raises:
      TypeError: `key` is not one PRNG key, `shape` is not a tuple, or `dtype` is not a floating
        dtype.

    Example:
      >>> logistic_noise(jax.random.key(0), (2, 3)).dtype.name
      'float32'
    """
    return _noise(_logistic, key, shape, dtype)


def words(key: PRNGKey, shape: tuple[int, ...]) -> UInt32[Array, "..."]:
    """Uniform 32-bit words.

    Example:
      >>> words(jax.random.key(0), (2, 3)).dtype.name
      'uint32'
    """
    check_key(key, "(key, shape, dtype)")
    return _draw(_word, key, shape, np.dtype(np.float32))


def _noise(
    transform: Transform, key: PRNGKey, shape: tuple[int, ...], dtype: DTypeLike
) -> Float[Array, "..."]:
    """Noise drawn in float32 at least, then cast to `dtype`."""
    check_key(key, "(key, shape, dtype)")
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"the dtype of noise must be a floating one, got {dtype}")
    if not isinstance(shape, Sequence):
        raise TypeError(f"the shape of noise must be a tuple of integers, got {shape}")
    wide = jnp.float64 if dtype == np.float64 else jnp.float32
    return _draw(transform, key, tuple(shape), wide).astype(dtype)


# Jitted as jax.random's functions are: called eagerly, a loop would compile anew each time.
@partial(jax.jit, static_argnames=("transform", "shape", "dtype"), inline=True)
def _draw(transform: Transform, key: PRNGKey, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """`transform(word, partner, dtype)` for each entry, from its own word and a partner's.

    In float32 two entries share a pair of words, each as its own word and the other's partner; in
    float64 each entry has a pair of its own.

    The loop over two halves is there for XLA, which on CPU would otherwise fuse the noise into
    whatever reduces it and compute it there unvectorized, at several times the cost.
    """
    paired = dtype == jnp.float32
    size = math.prod(shape)
    chunk = -(-size // (2 * _NUM_CHUNKS if paired else _NUM_CHUNKS))
    pairs = _pairs(key, chunk)

    def body(index: Array, _: None) -> tuple[Array, Array]:
        first, second = pairs(index)
        values = [transform(first, second, dtype)]
        if paired:
            values.append(transform(second, first, dtype))
        return index + np.uint32(1), jnp.stack(values)

    _, values = jax.lax.scan(body, jnp.uint32(0), None, length=_NUM_CHUNKS)
    return values.reshape(-1)[:size].reshape(shape)


def _pairs(key: PRNGKey, chunk: int) -> Callable[[Array], tuple[Words, Words]]:
    """A function from the number of a chunk to `chunk` pairs of words."""
    # The size of a program for export may be unknown, and is taken to be below 2^32.
    few = export.is_symbolic_dim(chunk) or chunk * _NUM_CHUNKS < 2**32
    if str(jax.random.key_impl(key)) == "threefry2x32" and few:
        data = jax.random.key_data(key)

        def hashed(index: Array) -> tuple[Words, Words]:
            counter = index * jnp.asarray(chunk, jnp.uint32) + jax.lax.iota(jnp.uint32, chunk)
            return threefry(data[0], data[1], jnp.zeros_like(counter), counter)

        return hashed
    data = jax.random.key_data(jax.random.split(key, (_NUM_CHUNKS, chunk)))
    return lambda index: (data[index, :, 0], data[index, :, 1])


def threefry(key0: Array, key1: Array, x0: Words, x1: Words) -> tuple[Words, Words]:
    """The Threefry-2x32 hash of the counters `(x0, x1)` under a key, in 20 rounds.

    Source: Salmon, Moraes, Dror and Shaw (2011), Parallel random numbers: as easy as 1, 2, 3.

    Example:
      >>> zero = jnp.zeros(1, jnp.uint32)
      >>> [hex(int(word[0])) for word in threefry(zero[0], zero[0], zero, zero)]
      ['0x6b200159', '0x99ba4efe']
    """
    keys = (key0, key1, key0 ^ key1 ^ np.uint32(_PARITY))
    x0, x1 = x0 + keys[0], x1 + keys[1]
    for group in range(5):
        for distance in _ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = (x1 << np.uint32(distance)) | (x1 >> np.uint32(32 - distance))
            x1 = x0 ^ x1
        x0 = x0 + keys[(group + 1) % 3]
        x1 = x1 + keys[(group + 2) % 3] + np.uint32(group + 1)
    return x0, x1


def _word(word: Words, _partner: Words, _dtype: DTypeLike) -> Words:
    return word


def _uniform(word: Words, partner: Words, dtype: DTypeLike) -> Float[Array, " n"]:
    return _fraction(word, partner, dtype, bits=32)


def _exponential(word: Words, partner: Words, dtype: DTypeLike) -> Float[Array, " n"]:
    below_one = 1 - jnp.finfo(dtype).epsneg
    u = jnp.minimum(_uniform(word, partner, dtype), below_one)
    if dtype != jnp.float32:
        return -jnp.log1p(-u)
    # As log1p, whose XLA form does not vectorize on CPU. Below 2^-6 the next term is below 2^-32.
    series = u * (1 + u * (1 / 2 + u * (1 / 3 + u * (1 / 4 + u * (1 / 5)))))
    return jnp.where(u < 2.0**-6, series, -jnp.log(1 - u))


def _gumbel(word: Words, partner: Words, dtype: DTypeLike) -> Float[Array, " n"]:
    return -jnp.log(_exponential(word, partner, dtype))


def _logistic(word: Words, partner: Words, dtype: DTypeLike) -> Float[Array, " n"]:
    # One bit gives the sign and the others the distance from the end, so the tails are alike.
    tail = 0.5 * _fraction(word, partner, dtype, bits=31)
    magnitude = jnp.log((1 - tail) / tail)
    return jnp.where(word >> np.uint32(31) == 1, magnitude, -magnitude)


def _fraction(word: Words, partner: Words, dtype: DTypeLike, *, bits: int) -> Float[Array, " n"]:
    """The last `bits` bits of `word`, and behind them the partner's, as a number in (0, 1].

    In float32 the partner gives its last 16 bits, which hardly affect its own number. The two are
    independent up to digits that neither resolves.
    """
    mask = np.uint32((1 << bits) - 1)
    if dtype != jnp.float32:
        fine = (partner.astype(dtype) + 0.5) * 2.0**-32
        return ((word & mask).astype(dtype) + fine) * 2.0**-bits
    # By way of int32: the conversion of unsigned integers is slow on CPU.
    coarse = ((word & mask) >> np.uint32(bits - 31)).astype(jnp.int32).astype(dtype)
    fine = ((partner & np.uint32(0xFFFF)).astype(jnp.int32).astype(dtype) + 0.5) * 2.0**-16
    return coarse * 2.0**-31 + fine * 2.0**-31
