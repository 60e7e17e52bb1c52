"""Moments of many estimates of one gradient, gathered draw by draw."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from gumbel.estimators import Estimator
from gumbel.tracing import jit_with
from gumbel.types import Batch, Objective, Params, PRNGKey

NUM_BLOCKS = 10  # of draws; the spread of their means gives the interval of a bias
_STUDENT = 2.262  # the 97.5% quantile of Student's t with 9 degrees of freedom
_TINY = float(np.finfo(np.float64).tiny)
Groups: TypeAlias = dict[str, Any]


class Measured(NamedTuple):
    """Means over blocks of draws, `[blocks, size]` for each group, and scalars over all draws."""

    means: dict[str, np.ndarray]
    variance: dict[str, float]
    cosine: dict[str, float]
    milliseconds: float


class Measure(Protocol):
    """Measures an estimator on one objective."""

    def __call__(
        self, key: PRNGKey, temperature: float, per_block: int, on_block: Callable[[int], object]
    ) -> Measured:
        """Draws `NUM_BLOCKS` blocks of `per_block` estimates; `on_block` gets how many are done."""


def measurer(
    arguments: tuple[Objective, Params, Batch],
    estimator: Estimator,
    truth: dict[str, np.ndarray],
    num_warmup: int,
) -> Measure:
    """One program for all keys and temperatures."""
    objective, params, batch = arguments
    target = {name: jnp.asarray(value.mean(axis=0), jnp.float32) for name, value in truth.items()}
    gradient = jax.grad(estimator.surrogate, argnums=1, has_aux=True)

    def warm(
        given: tuple[Params, Batch], key: PRNGKey, temperature: Float[Array, ""], state: PyTree
    ) -> PyTree:
        def step(state: PyTree, key: PRNGKey) -> tuple[PyTree, None]:
            return gradient(objective, *given, key, temperature, state)[1][0], None

        return jax.lax.scan(step, state, jax.random.split(key, num_warmup))[0]

    def block(
        given: tuple[Params, Batch], keys: PRNGKey, temperature: Float[Array, ""], state: PyTree
    ) -> Groups:
        def draw(sums: _Sums, key: PRNGKey) -> tuple[_Sums, None]:
            found = grouped(gradient(objective, *given, key, temperature, state)[0])
            return sums.plus({n: _moments(value, target[n]) for n, value in found.items()}), None

        zero = jax.tree.map(jnp.zeros_like, {n: _moments(v, v) for n, v in target.items()})
        return jax.lax.scan(draw, _Sums(zero, zero), keys)[0].total

    warmed, summed = (jit_with((params, batch), each) for each in (warm, block))

    def measure(
        key: PRNGKey, temperature: float, per_block: int, on_block: Callable[[int], object]
    ) -> Measured:
        init_key, warm_key, key = jax.random.split(key, 3)
        at = jnp.asarray(temperature, jnp.float32)
        state = estimator.init(objective, params, batch, init_key)
        state = warmed(warm_key, at, state) if num_warmup else state
        keys = jax.random.split(key, (NUM_BLOCKS, per_block))
        sums, seconds = [], []
        for number, some in enumerate(keys):
            start = time.perf_counter()
            sums.append(jax.device_get(summed(some, at, state)))
            seconds.append(time.perf_counter() - start)
            on_block(number + 1)
        total = per_block * NUM_BLOCKS
        means, variance, cosine = {}, {}, {}
        for name, true in target.items():
            means[name] = np.stack([s[name][0] for s in sums]).astype(np.float64) / per_block
            square = sum(float(s[name][1]) for s in sums) / total
            mean = means[name].mean(axis=0) - np.asarray(true, np.float64)
            variance[name] = max(square - float(mean @ mean), 0.0) * total / (total - 1)
            cosine[name] = sum(float(s[name][2]) for s in sums) / total
        # The first block compiles.
        return Measured(means, variance, cosine, 1e3 * min(seconds[1:]) / per_block)

    return measure


class _Sums(NamedTuple):
    """Sums of many terms, and by how much rounding has made them too large (Kahan's summation).

    A plain sum in float32 errs by 1e-5 after some thousand terms, more than a small bias.
    """

    total: Groups
    excess: Groups

    def plus(self, terms: Groups) -> "_Sums":
        terms = jax.tree.map(jnp.subtract, terms, self.excess)
        total = jax.tree.map(jnp.add, self.total, terms)
        excess = jax.tree.map(lambda new, old, term: (new - old) - term, total, self.total, terms)
        return _Sums(total, excess)


def _moments(value: Array, target: Array) -> tuple[Array, Array, Array]:
    """What is summed over draws: the estimate, its squared distance, and its cosine."""
    away = value - target
    scale = jnp.linalg.norm(value) * jnp.linalg.norm(target)
    cosine = jnp.where(scale > 0, value @ target / jnp.where(scale > 0, scale, 1), 0)
    return value, away @ away, cosine


def squared_bias(away: np.ndarray) -> tuple[float, tuple[float, float]]:
    """An unbiased estimate of `|E d|^2` and its 95% interval, from `NUM_BLOCKS` draws `d` in rows.

    The estimate is the mean product of two different rows, in which no row's noise is squared. The
    interval comes from the jackknife over rows, around the estimate, or around 0 if that is below
    0: around a negative estimate, it could exclude every possible value of `|E d|^2`.

    The jackknife is of first order in the noise, and in its leading term proportional to the mean
    row, so it is too small where the noise happens to cancel the mean. In one dimension, the upper
    end of Student's interval for the mean, squared, is `(t^2 + 1) s^2 / n` above that of the
    jackknife, with `s^2` the variance of a row. This is added, with `s^2` the variance along the
    mean row: for normal rows of 1 to 1000 entries, the interval then covers in at least 94% of
    cases (`test_lab.py`), and it is wider only where the entries are few.

    Example:
      >>> squared_bias(np.array([[3.0, 4.0]] * 10))
      (25.0, (25.0, 25.0))
    """
    count = len(away)
    assert count == NUM_BLOCKS, f"the interval is that of {NUM_BLOCKS} rows"
    gram = away @ away.T
    off = gram - np.diag(np.diag(gram))
    whole = float(off.sum()) / (count * (count - 1))
    without = (off.sum() - 2 * off.sum(axis=1)) / ((count - 1) * (count - 2))
    error = math.sqrt((count - 1) / count * float(np.sum(np.square(without - without.mean()))))
    width = _STUDENT * error
    # The products with the mean row, whose square is their mean.
    products = gram.mean(axis=1)
    along = float(products.var(ddof=1)) / max(float(products.mean()), _TINY)
    center = max(whole, 0.0)
    return whole, (center - width, center + width + (_STUDENT**2 + 1) * along / count)


def grouped(tree: PyTree) -> Groups:
    """The parameters as one vector for each top-level key, and one of all."""
    parts: dict[str, list[Any]] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = jax.tree_util.keystr(path[:1], simple=True) if path else "params"
        if jnp.issubdtype(jnp.result_type(leaf), jnp.complexfloating):
            raise TypeError(
                f"params has {jnp.result_type(leaf)} at {name!r}, and complex parameters are not "
                "measured: give their real and imaginary parts"
            )
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(
                f"params has {jnp.result_type(leaf)} at {name!r}, which has no gradient: hold it "
                "in the objective or the batch"
            )
        parts.setdefault(name, []).append(jnp.ravel(leaf).astype(jnp.float32))
    if not parts:
        raise ValueError("params has no arrays: nothing has a gradient")
    groups = {name: jnp.concatenate(leaves) for name, leaves in parts.items()}
    if "all" in groups:
        raise ValueError(
            "params has a top-level key 'all', which names the group of all parameters: rename it"
        )
    return {"all": jnp.concatenate(list(groups.values())), **groups}
