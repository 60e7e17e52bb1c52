"""The true gradient, by enumeration or by a long run of an unbiased estimator."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from gumbel import estimators as registry
from gumbel import exact
from gumbel.arguments import check_integer, check_temperature
from gumbel.checks import why_not_vectorized
from gumbel.independence import require_independent
from gumbel.lab.moments import NUM_BLOCKS, grouped, measurer
from gumbel.layouts import count_joint, layout, readable
from gumbel.sites import FamilyLike
from gumbel.smoothness import undifferentiable
from gumbel.tracing import jit_with
from gumbel.types import Batch, Objective, Params, PRNGKey, Sampler

# `(what is measured, blocks done, blocks in all)`, after each block of draws.
Progress = Callable[[str, int, int], object]


class Truth(NamedTuple):
    """The result of `true_gradient`.

    Attributes:
      blocks: by group of parameters, the gradient in each block of draws, `[blocks, size]`.
      source: how it was found, in words; for a long run with its standard error, the root of the
        summed squared errors of the coordinates, as a share of the norm.
    """

    blocks: dict[str, np.ndarray]
    source: str


def true_gradient(
    objective: Objective,
    params: Params,
    batch: Batch,
    key: PRNGKey,
    *,
    family: FamilyLike = None,
    reference: str | None = None,
    num_draws: int = 10_000,
    temperature: float = 1.0,
    max_values: int = 4096,
    progress: Progress = lambda what, done, total: None,
) -> Truth:
    """The gradient of `E[f(z)]`, by enumeration if there are few values, else by a long run.

    A cost that JAX cannot vmap is not enumerated.

    Args:
      objective, params, batch, key, family: as for `compare`; the objective's noise is the same
        for the same key.
      reference: unbiased estimator for the long run; if None, `muprop`, or `rloo` where JAX cannot
        differentiate the cost in the samples, or `sf` where it cannot vmap it, either.
      num_draws: number of estimates in that run, at least 10, rounded up to a multiple of 10.
      temperature: temperature passed to it.
      max_values: largest number of joint values to enumerate.
      progress: called after each block of draws, `progress(what, done, total)`.

    Raises:
      TypeError: `params` has leaves that are not floats, or `num_draws` is not an integer.
      ValueError: `reference` is biased or needs a cost that JAX can vmap, `num_draws` is below 10,
        `temperature` is not positive and finite, or one example's samples change another's cost.
    """
    num_draws = check_integer(num_draws, "num_draws", least=NUM_BLOCKS)
    check_temperature(temperature)
    spec = registry.spec(reference or "muprop")
    if not spec.unbiased or spec.multi_sample:
        raise ValueError(
            f"reference {reference!r} is not an unbiased estimator of the gradient of the mean "
            "cost: give one such as 'muprop'"
        )
    noise_key, key, _ = jax.random.split(key, 3)
    arguments = (with_noise(objective, noise_key), params, batch)
    zero = {name: np.zeros((1, value.size)) for name, value in grouped(params).items()}
    count = count_joint(layout(*arguments, key, family))
    vectorizes = not why_not_vectorized(*arguments, key, family)
    if count <= max_values and vectorizes:
        # Outside of jit, in which values cannot be compared; so do the estimators of a long run.
        require_independent(*arguments, key, family)

        def enumerated(given: tuple[Params, Batch, PRNGKey]) -> Params:
            return exact.value_and_grad(arguments[0], *given, family, max_values=max_values)[1]

        found_exactly = grouped(jit_with((params, batch, key), enumerated)())
        groups = {name: np.asarray(value) for name, value in found_exactly.items()}
        whole = {name: np.tile(value, (NUM_BLOCKS, 1)) for name, value in groups.items()}
        return Truth(whole, f"enumeration of {count} joint values")
    if reference is None and undifferentiable(*arguments, key, family):
        spec = registry.spec("rloo" if vectorizes else "sf")
    if spec.vectorizes and not vectorizes:
        raise ValueError(
            f"reference {reference!r} runs the objective for several samples at once, but JAX "
            "cannot vmap it: give 'sf', or jax.pure_callback vmap_method='sequential'"
        )
    measure = measurer(arguments, spec.factory(family), zero, 0)
    per_block = -(-num_draws // NUM_BLOCKS)
    said = f"{per_block * NUM_BLOCKS} draws of {spec.name}"
    found = measure(
        key, temperature, per_block, lambda done: progress(f"truth, {said}", done, NUM_BLOCKS)
    )
    blocks = found.means["all"]
    norm = float(np.linalg.norm(blocks.mean(axis=0)))
    share = math.sqrt(blocks.var(axis=0, ddof=1).sum() / NUM_BLOCKS) / max(norm, 1e-30)
    said += f", standard error {share:.2g} of its norm"
    needs = f"{readable(count)} joint values" if vectorizes else "a cost that JAX can vmap"
    return Truth(found.means, f"{said} (enumeration needs {needs})")


def with_noise(objective: Objective, noise_key: PRNGKey) -> Objective:
    """The objective with its own noise fixed to that of `noise_key`."""

    def fixed(params: Params, batch: Batch, _key: PRNGKey, sample: Sampler) -> Any:
        return objective(params, batch, noise_key, sample)

    return fixed
