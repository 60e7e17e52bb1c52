"""`compare`: measures estimators one after another."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from gumbel import estimators as registry
from gumbel.arguments import check_integer, check_temperature
from gumbel.checks import check_objective, reason, why_not_vectorized
from gumbel.estimators import Estimator, Spec
from gumbel.lab.moments import NUM_BLOCKS, Measured, measurer, squared_bias
from gumbel.lab.results import Comparison, Row
from gumbel.lab.truth import Progress, Truth, true_gradient, with_noise
from gumbel.layouts import layout, readable
from gumbel.passes import count_passes
from gumbel.sites import FamilyLike
from gumbel.types import Batch, Objective, Params, PRNGKey

# Of the size of an estimate, what a bias may be by rounding alone: a few steps of float32.
_ROUNDING = 16 * float(np.finfo(np.float32).eps)


def compare(
    objective: Objective,
    params: Params,
    batch: Batch,
    key: PRNGKey,
    *,
    family: FamilyLike = None,
    estimators: Sequence[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    temperatures: Sequence[float] = (0.5, 1.0),
    num_draws: int = 1000,
    num_warmup: int = 0,
    reference: str | None = None,
    reference_draws: int | None = None,
    max_values: int = 4096,
    max_passes: int | None = None,
    truth: Truth | None = None,
    known: Comparison | None = None,
    on_result: Callable[[Comparison], object] = lambda found: None,
    progress: Progress = lambda what, done, total: None,
) -> Comparison:
    """Measures estimators of the gradient of `E[f(z)]` at these parameters.

    The estimates are computed one after another, so memory does not grow with their number. It
    holds a few copies of the gradient, plus one for each of 10 blocks.

    Args:
      objective, params, batch: see `gumbel.Objective`. The objective's own noise is the same in
        all estimates.
      key: PRNG key of all draws.
      family: family of the sites, as for `gumbel.estimators.make`.
      estimators: names of estimators; all registered ones if None. Estimators that do not apply to
        the objective, or minimize a multi-sample bound, are skipped with a reason.
      options: options of the estimators, by name.
      temperatures: used for each estimator that reads the temperature.
      num_draws: number of estimates, at least 10, rounded up to a multiple of 10.
      num_warmup: number of surrogates before the measurement, during which baselines and other
        learned state settle.
      reference: unbiased estimator whose long run stands in for the true gradient if there are
        more than `max_values` joint values, or JAX cannot vmap the cost; if None, `muprop`, or
        `rloo` where JAX cannot differentiate the cost in the samples, or `sf` where it can do
        neither.
      reference_draws: number of estimates in that run; 10 * `num_draws` if None.
      max_values: largest number of joint values to enumerate.
      max_passes: estimators that take more forward and backward passes are skipped.
      truth: result of `true_gradient`, if known; `reference`, `reference_draws` and `max_values`
        are then ignored.
      known: an earlier comparison with the same arguments, whose rows are kept.
      on_result: called with the comparison so far, after each estimator and temperature.
      progress: called after each block of draws, `progress(what, done, total)`.

    Returns:
      A `Comparison`, with a row for each estimator, temperature, and group of parameters.

    Raises:
      TypeError: `estimators` or `temperatures` is not a sequence, or `num_draws` or
        `reference_draws` is not an integer.
      ValueError: `reference` is biased, or an argument is out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from gumbel import BERNOULLI, lab
      >>> def objective(params, batch, key, sample):
      ...     return jnp.square(sample("b", params["logit"] + batch)[:, 0] - 0.45)
      >>> params, batch = {"logit": jnp.zeros(1)}, jnp.zeros((4, 1))
      >>> found = lab.compare(
      ...     objective,
      ...     params,
      ...     batch,
      ...     jax.random.key(0),
      ...     family=BERNOULLI,
      ...     estimators=["sf", "st"],
      ...     num_draws=100,
      ... )
      >>> found.reference, [row.estimator for row in found.rows if row.group == "all"]
      ('enumeration of 2 joint values', ['sf', 'st'])
    """
    _check(estimators, temperatures, num_draws, num_warmup, reference_draws)
    temperatures = tuple(float(temperature) for temperature in temperatures)
    names = registry.names() if estimators is None else estimators
    chosen = [registry.spec(name) for name in names]
    if truth is None:
        truth = true_gradient(
            objective,
            params,
            batch,
            key,
            family=family,
            reference=reference,
            num_draws=reference_draws or 10 * num_draws,
            temperature=temperatures[0],
            max_values=max_values,
            progress=progress,
        )
    noise_key, _, draw_key = jax.random.split(key, 3)
    arguments = (with_noise(objective, noise_key), params, batch)
    options = {registry.spec(name).name: given for name, given in (options or {}).items()}
    plan = layout(*arguments, key, family)
    passes = {spec.name: count_passes(spec, plan, options.get(spec.name)) for spec in chosen}
    applicable, skipped = _applicable(arguments, key, family, chosen, options, passes, max_passes)
    todo = [
        (spec, t)
        for spec in chosen
        if spec.name in applicable
        for t in (temperatures if spec.relaxes else (None,))
    ]
    rows = list(known.rows) if known else []
    per_block = -(-num_draws // NUM_BLOCKS)
    measured, measure = "", None
    for number, (spec, temperature) in enumerate(todo):
        if any((row.estimator, row.temperature) == (spec.name, temperature) for row in rows):
            continue
        if measure is None or measured != spec.name:
            measured = spec.name  # one program for all of its temperatures
            measure = measurer(arguments, applicable[spec.name], truth.blocks, num_warmup)

        def report_block(done: int, number: int = number, name: str = spec.name) -> None:
            progress(name, number * NUM_BLOCKS + done, len(todo) * NUM_BLOCKS)

        at = 1.0 if temperature is None else temperature
        found = measure(draw_key, at, per_block, report_block)
        unbiased = spec.unbiased_with(options.get(spec.name, {}))
        counted = passes[spec.name]
        rows += _rows(spec, temperature, found, truth.blocks, counted, unbiased=unbiased)
        on_result(Comparison(truth.source, tuple(rows), skipped))
    return Comparison(truth.source, tuple(rows), skipped)


def _check(
    estimators: Sequence[str] | None,
    temperatures: Sequence[float],
    num_draws: int,
    num_warmup: int,
    reference_draws: int | None,
) -> None:
    check_integer(num_draws, "num_draws", least=NUM_BLOCKS)  # one for each block
    check_integer(num_warmup, "num_warmup", least=0)
    if reference_draws is not None:
        check_integer(reference_draws, "reference_draws", least=NUM_BLOCKS)
    if isinstance(estimators, str):
        raise TypeError(f"estimators is {estimators!r}: give a sequence of names, such as ['sf']")
    if np.ndim(temperatures) != 1:
        raise TypeError(f"temperatures is {temperatures!r}: give a sequence, such as (0.5, 1.0)")
    if not len(temperatures):
        raise ValueError("temperatures are empty: give one or more above 0")
    for temperature in temperatures:
        check_temperature(temperature)


def _applicable(
    arguments: tuple[Objective, Params, Batch],
    key: PRNGKey,
    family: FamilyLike,
    chosen: Sequence[Spec],
    options: Mapping[str, Mapping[str, Any]],
    passes: Mapping[str, int],
    max_passes: int | None,
) -> tuple[dict[str, Estimator], dict[str, str]]:
    """The estimators to measure, and the reasons why the others are not, by name."""
    report = check_objective(*arguments, key, family)
    not_vectorized = "" if report.vectorizes else why_not_vectorized(*arguments, key, family)
    applicable, skipped = {}, {}
    for spec in chosen:
        name = spec.name
        if spec.multi_sample:
            skipped[name] = "it descends a multi-sample bound"
        elif unfit := reason(spec, report.sites, options.get(name)):
            skipped[name] = unfit
        elif spec.vectorizes and not report.vectorizes:
            skipped[name] = not_vectorized
        elif max_passes is not None and passes[name] > max_passes:
            skipped[name] = f"an estimate takes {readable(passes[name])} passes, over {max_passes}"
        else:
            estimator = spec.factory(family, **options.get(name, {}))
            try:
                jax.eval_shape(partial(estimator.init, *arguments, key))
                applicable[name] = estimator
            except ValueError as error:
                skipped[name] = str(error)
    return applicable, skipped


def _rows(
    spec: Spec,
    temperature: float | None,
    found: Measured,
    truth: dict[str, np.ndarray],
    passes: int,
    *,
    unbiased: bool,
) -> Iterator[Row]:
    for group, blocks in found.means.items():
        bias, interval = squared_bias(blocks - truth[group])
        norm, variance = float(np.linalg.norm(truth[group].mean(axis=0))), found.variance[group]
        # The true gradient and the estimates are computed in float32.
        rounding = _ROUNDING * math.hypot(norm, math.sqrt(variance))
        low, high = (math.sqrt(max(end, 0.0)) for end in interval)
        yield Row(
            estimator=spec.name,
            temperature=temperature,
            group=group,
            unbiased=unbiased,
            bias=math.sqrt(max(bias, 0.0)),
            bias_interval=(max(low - rounding, 0.0), high + rounding),
            variance=variance,
            error=variance + max(bias, 0.0),
            cosine=found.cosine[group],
            norm=norm,
            passes=passes,
            milliseconds=found.milliseconds,
        )
