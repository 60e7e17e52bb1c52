"""Samplers to inject into an objective, and the traced pass that every estimator is made of.

Hard evaluation, the mean field, an observed label and one term of an enumeration are all samplers.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gumbel.families import Family
from gumbel.types import Batch, Cost, Logits, Objective, Params, PRNGKey, Sample, Sampler

Draw = Callable[[str, PRNGKey, Logits], Sample]


class Record(NamedTuple):
    """What one site saw in a pass: its `logits` and the value `z` that was returned for them."""

    logits: Logits
    z: Sample


Records = dict[str, Record]


def trace(
    objective: Objective, params: Params, batch: Batch, key: PRNGKey, draw: Draw
) -> tuple[Cost, Records]:
    """Runs the objective once, taking each site's value from `draw`, and records the sites.

    Args:
      objective: see `gumbel.Objective`.
      params, batch: the objective's own.
      key: split once into the objective's key and the sites' keys, which are told apart by the
        order of the sites: two passes with one key draw the same samples.
      draw: `draw(site, key, logits) -> z`.

    Returns:
      The cost `[B]` and `{site: Record(logits, z)}`, in the order of the calls.

    Raises:
      ValueError: a site asked for twice, no site at all, or a cost that is not one per example.
    """
    objective_key, sites_key = jax.random.split(key)
    records: Records = {}

    def sample(site: str, logits: Logits) -> Sample:
        if site in records:
            raise ValueError(f"objective sampled site {site!r} twice: give each call its own name")
        z = draw(site, jax.random.fold_in(sites_key, len(records)), logits)
        records[site] = Record(logits, z)
        return z

    cost = objective(params, batch, objective_key, sample)
    if not records:
        raise ValueError("objective sampled no site: call sample(site, logits) for each variable")
    site, first = next(iter(records.items()))
    if not jnp.ndim(first.logits):
        raise ValueError(f"logits of site {site!r} are a scalar: their first axis is for examples")
    batch_size = first.logits.shape[0]
    if jnp.shape(cost) != (batch_size,):
        raise ValueError(
            f"objective returned a cost of shape {jnp.shape(cost)}: return one cost per example, "
            f"({batch_size},)"
        )
    return cost, records


def hard_draw(family: Family) -> Draw:
    """Draws discrete samples, through which no gradient flows."""
    return lambda _site, key, logits: family.sample(key, logits)


def hard(family: Family, key: PRNGKey) -> Sampler:
    """A sampler of discrete values: what every evaluation injects.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from gumbel import BERNOULLI, samplers
      >>> sample = samplers.hard(BERNOULLI, jax.random.key(0))
      >>> sample("h", jnp.array([[-1e4, 1e4]])).tolist()
      [[0.0, 1.0]]
    """
    calls = 0

    def sample(site: str, logits: Logits) -> Sample:
        nonlocal calls
        z = family.sample(jax.random.fold_in(key, calls), logits)
        calls += 1
        return z

    return sample


def mean_field(family: Family) -> Sampler:
    """A sampler that returns the mean of each variable instead of a draw."""
    return lambda _site, logits: family.mean(logits)


def observe(values: Mapping[str, Sample], otherwise: Sampler) -> Sampler:
    """A sampler that returns `values[site]` where the site is observed, else asks `otherwise`.

    Example:
      >>> import jax.numpy as jnp
      >>> from gumbel import CATEGORICAL, samplers
      >>> label = jnp.array([[[0.0, 1.0]]])
      >>> sample = samplers.observe({"y": label}, samplers.mean_field(CATEGORICAL))
      >>> sample("y", jnp.zeros((1, 1, 2))).tolist(), sample("h", jnp.zeros((1, 1, 2))).tolist()
      ([[[0.0, 1.0]]], [[[0.5, 0.5]]])
    """
    return lambda site, logits: values[site] if site in values else otherwise(site, logits)


def sum_per_example(per_variable: Float[Array, "B *D"]) -> Float[Array, " B"]:
    """Sums everything but the leading batch axis."""
    return jnp.sum(per_variable.reshape(per_variable.shape[0], -1), axis=1)


def log_prob(family: Family, records: Records) -> Float[Array, " B"]:
    """`sum_site sum_d log q(z_d)`: the log-probability of all recorded samples, per example."""
    return jnp.stack(
        [sum_per_example(family.log_prob(record.logits, record.z)) for record in records.values()]
    ).sum(axis=0)
