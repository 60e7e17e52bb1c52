"""Whether the change of a cost between two samples is all in its derivative.

A program that has some derivative in a sample may still jump, at a comparison or an argmax, or hide
a part of the derivative behind a `stop_gradient`. What it computes then changes, along the line
from one sample to another, by something else than the integral of its derivative.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from gumbel.probes import (
    MaskOf,
    Probe,
    Target,
    Targets,
    first_axis,
    flipped,
    leading,
    outputs,
    reaching_cost,
    targets_of,
)
from gumbel.programs import coarsest_rounding
from gumbel.samplers import Record, replayed
from gumbel.sites import FamilyLike, value_mask
from gumbel.tracing import gathered, jit_with
from gumbel.types import Batch, Mask, Objective, Params, PRNGKey, Sample

# A few lines, of which one begins at the extreme samples. Their ends, at which a relaxed sample
# never is, are left out: the logarithm of a sample has no finite slope there.
_STARTS = (0, 1, 3)
_COARSE = np.arange(1, 16, 2) / 16  # fractions of two, which every dtype holds
_FINE = np.arange(4, 61) / 64
_SHARE = 0.01  # of the change, from which on a mismatch is looked at more closely
_ROUNDING = 32  # units in the last place

# `evaluate(t, weights)` is what is computed at a share t of the way, and the derivative in t of its
# weighted sum; if examples are separate, each has a t of its own.
Evaluate: TypeAlias = Callable[[float, np.ndarray], tuple[Array, Array]]


def hidden_changes(
    objective: Objective,
    params: Params,
    batch: Batch,
    key: PRNGKey,
    family: FamilyLike,
    probe: Probe,
    slopes: Mapping[str, Targets],
) -> frozenset[str]:
    """The sites whose samples change the cost, or logits on which it depends, beside a derivative.

    It compiles one program and runs it, forward and back, 24 times for each site and each thing
    that has a derivative in its samples; where the derivative varies much, some 60 times more.
    Where something is not finite, nothing is said.

    Args:
      objective, params, batch, key: see `gumbel.Objective`; concrete.
      family: family of the sites.
      probe: probe of this objective.
      slopes: what has a derivative in the samples of each site; nothing if JAX finds none.
    """
    params, batch = gathered((params, batch))
    records, coupled = probe.drawn.records, probe.drawn.coupled
    names: list[Target] = [name for name in targets_of(records) if not isinstance(name, MaskOf)]
    relevant = leading(reaching_cost(slopes)) & frozenset(names)
    sought = {site: found for site in slopes if (found := slopes[site] & relevant)}
    if not sought:
        return frozenset()

    def slid(
        batch: Batch,
        params: Params,
        key: PRNGKey,
        values: dict[str, Sample],
        flips: dict[str, Mask],
        moving: dict[str, Any],
        weights: Array,
        shares: Array,
    ) -> tuple[Array, Array]:
        def at(shares: Array) -> Array:
            there = dict(values)
            for site, moves in moving.items():
                z = values[site]
                flip = value_mask(flips[site], records[site].family) & moves
                step = jnp.where(flip, flipped(z, records[site]) - z, 0)
                there[site] = (z + first_axis(shares, z.ndim) * step).astype(z.dtype)
            again = replayed(objective, params, batch, key, family, records, there)
            found = outputs(again)[: len(names)]
            rows = [_summed(*pair, records, coupled) for pair in zip(names, found, strict=True)]
            return jnp.stack([row.astype(found[0].dtype) for row in rows])

        computed, pullback = jax.vjp(at, shares)
        return computed, pullback(weights.astype(computed.dtype))[0]

    run, shape = jit_with(batch, slid), (len(names), *probe.drawn.cost.shape)
    hidden, epsilon = set[str](), None
    for number in _STARTS:
        values, flips = probe.samples(number)
        for site in [site for site in sought if site not in hidden]:
            moving = {name: np.array(name == site) for name in sought}
            line = functools.partial(_evaluated, run, (params, key, values, flips, moving))
            if epsilon is None:
                ones = np.ones(shape, np.float32)
                epsilon = coarsest_rounding(
                    functools.partial(slid, batch),
                    params,
                    key,
                    values,
                    flips,
                    moving,
                    ones,
                    ones[0],
                )
            indices = [names.index(target) for target in sought[site]]
            if any(_changes_beside(line, index, shape, epsilon) for index in indices):
                hidden.add(site)
    return frozenset(hidden)


def _evaluated(
    run: Callable[..., tuple[Array, Array]], arguments: tuple[Any, ...], t: float, weights: Any
) -> tuple[Array, Array]:
    # Low-precision products of matrices would hide small changes in rounding errors.
    with jax.default_matmul_precision("highest"):
        return run(*arguments, weights, np.full(weights.shape[1:], t, np.float32))


def _summed(name: Target, output: Array, records: Mapping[str, Record], coupled: bool) -> Array:
    """What is computed, as one number for each cost: of logits, a sum with random weights."""
    if not isinstance(name, str):
        return output
    if records[name].family.event_ndims:  # a common shift of the logits has no effect
        output = jax.nn.log_softmax(output, axis=-1)
    shape = output.shape if coupled else output.shape[1:]
    weights = np.random.default_rng(0).normal(size=shape).astype(output.dtype)
    return jnp.sum(output * weights, axis=range(0 if coupled else 1, output.ndim))


def _changes_beside(evaluate: Evaluate, index: int, shape: tuple[int, ...], epsilon: float) -> bool:
    """Whether one of the things computed changes by more than the integral of its derivative.

    The costs are compared one by one in large steps, as if they were independent. Those that do not
    match are compared in small steps, by their sum, which may depend on the samples of all.
    """
    weights = np.zeros(shape)
    weights[index] = 1
    line = _line(evaluate, _COARSE, weights, index)
    if not (rows := line.beyond(_SHARE, epsilon)).any():
        return False
    mismatch = line.mismatch()
    largest = abs(mismatch).argmax(axis=0)[None]
    signs = np.sign(np.take_along_axis(mismatch, largest, axis=0)[0])
    weights[index] = np.where(rows, signs, 0).reshape(shape[1:])
    return _line(evaluate, _FINE, weights, index).beyond_in_total(2 * _SHARE, epsilon)


class _Line(NamedTuple):
    """What is computed along a line, and its derivatives, `[steps, costs]`."""

    width: float
    values: np.ndarray
    slopes: np.ndarray

    def mismatch(self) -> np.ndarray:
        """The change since the beginning, less the integral of the derivative."""
        panels = self.width * (self.slopes[1:] + self.slopes[:-1]) / 2
        integral = np.concatenate([np.zeros_like(panels[:1]), panels.cumsum(axis=0)])
        return np.asarray(self.values - self.values[0] - integral)

    def scale(self) -> np.ndarray:
        """How much each cost changes: in all, or by the derivative."""
        change = abs(self.values - self.values[0]).max(axis=0)
        return np.maximum(change, abs(self.width * self.slopes).sum(axis=0))

    def beyond(self, share: float, epsilon: float) -> np.ndarray:
        """For each cost, whether the mismatch is more than a share of the change, and rounding."""
        finite = np.isfinite(self.values).all(axis=0) & np.isfinite(self.slopes).all(axis=0)
        floor = _ROUNDING * epsilon * abs(self.values).max(axis=0)
        return finite & (abs(self.mismatch()).max(axis=0) > share * self.scale() + floor)

    def beyond_in_total(self, share: float, epsilon: float) -> bool:
        """Whether the mismatch of the sum is, and is not an error of the trapezoidal rule either.

        In a panel over which a derivative rises or falls, as at a kink, the rule is wrong by no
        more than half the difference times the width.
        """
        if not (np.isfinite(self.values).all() and np.isfinite(self.slopes).all()):
            return False
        bends = self.width * abs(np.diff(self.slopes, axis=0)).sum(axis=1) / 2
        bound = np.concatenate([[0.0], bends.cumsum()])
        floor = _ROUNDING * epsilon * abs(self.values).max(axis=0).sum()
        mismatch = abs(self.mismatch().sum(axis=1))
        return bool((mismatch > bound + share * self.scale().sum() + floor).any())


def _line(evaluate: Evaluate, nodes: np.ndarray, weights: np.ndarray, index: int) -> _Line:
    found = [evaluate(t, weights) for t in nodes]
    values, slopes = (
        np.asarray(each, np.float64).reshape(len(nodes), -1)
        for each in ([one[0][index] for one in found], [one[1] for one in found])
    )
    # NaN for all that is not finite, and 0 for costs that are left out, which need not be finite.
    share = weights[index].reshape(-1)
    values, slopes = (np.where(np.isfinite(each), each, np.nan) for each in (values, slopes))
    values = np.where(share == 0, 0, values * share)
    slopes = np.where((share == 0) & np.isnan(slopes), 0, slopes)
    return _Line(nodes[1] - nodes[0], values, slopes)
