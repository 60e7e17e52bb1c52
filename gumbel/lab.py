"""Measurements of gradient estimators: distance from the true gradient, and cost.

`compare` measures estimators on an objective at given parameters: bias with an interval, variance,
mean squared error, cosine, passes, and time, for all parameters together and for each group of
them. The result is plain data that prints as a table.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from gumbel import estimators as registry
from gumbel import exact
from gumbel.checks import check_objective
from gumbel.estimators import Spec
from gumbel.independence import layout
from gumbel.measuring import NUM_BLOCKS, Measured, grouped, measurer, squared_bias
from gumbel.sites import FamilyLike
from gumbel.types import Batch, Objective, Params, PRNGKey, Sampler


@dataclasses.dataclass(frozen=True)
class Row:
    """The measurements of one estimator, at one temperature, in one group of parameters.

    Attributes:
      estimator: name of the estimator.
      temperature: None for an estimator that does not read it.
      group: a top-level key of the parameters, or `all`.
      bias: distance between the expected estimate and the true gradient, 0 if too small to measure.
      bias_interval: 95 % interval of `bias`.
      variance: `E|g - E g|^2` of one estimate.
      error: mean squared error, `variance + bias^2`.
      cosine: mean cosine between one estimate and the true gradient.
      norm: norm of the true gradient.
      passes: forward and backward passes through the objective per estimate.
      milliseconds: time per estimate, for all groups together.
    """

    estimator: str
    temperature: float | None
    group: str
    bias: float
    bias_interval: tuple[float, float]
    variance: float
    error: float
    cosine: float
    norm: float
    passes: int
    milliseconds: float

    @property
    def variance_per_pass(self) -> float:
        """Variance at equal cost in passes: `variance * passes`."""
        return self.variance * self.passes

    @property
    def variance_per_millisecond(self) -> float:
        """Variance at equal time: `variance * milliseconds`."""
        return self.variance * self.milliseconds


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The result of `compare`; `print` shows it as a table.

    Attributes:
      reference: source of the true gradient: enumeration, or a long run of an estimator.
      rows: one for each estimator, temperature, and group.
      skipped: by name of an estimator, why it does not apply to the objective.
    """

    reference: str
    rows: tuple[Row, ...]
    skipped: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """The comparison as plain data, for JSON."""
        rows = [
            dataclasses.asdict(row)
            | {
                "variance_per_pass": row.variance_per_pass,
                "variance_per_millisecond": row.variance_per_millisecond,
            }
            for row in self.rows
        ]
        return {"reference": self.reference, "rows": rows, "skipped": dict(self.skipped)}

    def table(self, group: str = "all") -> str:
        """The rows of one group as text, the smallest error first."""
        heading = (
            f"{'estimator':20} {'temp.':>6} {'bias':>9} {'95 %':>19} {'variance':>9} "
            f"{'error':>9} {'cosine':>7} {'passes':>6} {'var*pass':>9} {'ms':>8}"
        )
        lines = [f"true gradient: {self.reference}; group: {group}", heading]
        for row in sorted((r for r in self.rows if r.group == group), key=lambda r: r.error):
            temperature = "" if row.temperature is None else f"{row.temperature:g}"
            low, high = row.bias_interval
            lines.append(
                f"{row.estimator:20} {temperature:>6} {row.bias:9.3g} "
                f"{f'{low:.3g}..{high:.3g}':>19} {row.variance:9.3g} {row.error:9.3g} "
                f"{row.cosine:7.3f} {row.passes:6} {row.variance_per_pass:9.3g} "
                f"{row.milliseconds:8.3g}"
            )
        lines += [f"{name:20} skipped: {reason}" for name, reason in self.skipped.items()]
        return "\n".join(lines)

    __str__ = table


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
    reference: str = "muprop",
    reference_draws: int | None = None,
    max_values: int = 4096,
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
        the objective, or minimize a multi-sample bound, are skipped.
      options: options of the estimators, by name.
      temperatures: used for each estimator that reads the temperature.
      num_draws: number of estimates, rounded up to a multiple of 10.
      num_warmup: number of surrogates before the measurement, during which baselines and other
        learned state settle.
      reference: unbiased estimator whose long run stands in for the true gradient if there are
        more than `max_values` joint values.
      reference_draws: number of estimates in that run; 10 * `num_draws` if None.
      max_values: largest number of joint values to enumerate.

    Returns:
      A row for each estimator, temperature, and group of parameters.

    Raises:
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
    noise_key, truth_key, draw_key = jax.random.split(key, 3)

    def fixed(params: Params, batch: Batch, _key: PRNGKey, sample: Sampler) -> Any:
        return objective(params, batch, noise_key, sample)

    arguments = (fixed, params, batch)
    chosen = [registry.spec(name) for name in estimators or registry.names()]
    per_block = -(-num_draws // NUM_BLOCKS)
    if num_draws < NUM_BLOCKS:
        raise ValueError(
            f"num_draws is {num_draws}: give at least {NUM_BLOCKS}, one for each block"
        )
    report = {r.name: r for r in check_objective(*arguments, key, family).estimators}
    truth, said = _truth(
        arguments,
        truth_key,
        family,
        reference,
        reference_draws or 10 * num_draws,
        max_values,
        temperatures[0],
    )
    rows, skipped = [], {}
    for spec in chosen:
        name = spec.name
        reason = "it descends a multi-sample bound" if spec.multi_sample else report[name].reason
        if reason:
            skipped[name] = reason
            continue
        estimator = spec.factory(family, **(options or {}).get(name, {}))
        measure = measurer(arguments, estimator, truth, num_warmup)
        passes = _count(report[name].passes)
        for temperature in temperatures if spec.relaxes else (None,):
            found = measure(draw_key, temperature or 1.0, per_block)
            rows += list(_rows(name, temperature, found, truth, passes))
    return Comparison(said, tuple(rows), skipped)


def _truth(
    arguments: tuple[Objective, Params, Batch],
    key: PRNGKey,
    family: FamilyLike,
    reference: str,
    num_draws: int,
    max_values: int,
    temperature: float,
) -> tuple[dict[str, np.ndarray], str]:
    """The true gradient of each group, for each block of draws, and where it is from."""
    plan = layout(*arguments, key, family)
    try:
        count = exact.check_count(plan, max_values)
    except ValueError:
        count = 0
    if count:
        objective, params, batch = arguments
        _, gradient = jax.jit(
            lambda p: exact.value_and_grad(objective, p, batch, key, family, max_values=max_values)
        )(params)
        groups = {name: np.asarray(value) for name, value in grouped(gradient).items()}
        whole = {name: np.tile(value, (NUM_BLOCKS, 1)) for name, value in groups.items()}
        return whole, f"enumeration of {count} joint values"
    spec: Spec = registry.spec(reference)
    if not spec.unbiased or spec.multi_sample:
        raise ValueError(
            f"reference {reference!r} is biased: give an unbiased one such as 'muprop'"
        )
    zero = {name: np.zeros((NUM_BLOCKS, v.size)) for name, v in grouped(arguments[1]).items()}
    measure = measurer(arguments, spec.factory(family), zero, 0)
    per_block = -(-num_draws // NUM_BLOCKS)
    found = measure(key, temperature, per_block)
    return found.means, f"{per_block * NUM_BLOCKS} draws of {reference}"


def _rows(
    name: str,
    temperature: float | None,
    found: Measured,
    truth: dict[str, np.ndarray],
    passes: int,
) -> Iterator[Row]:
    for group, blocks in found.means.items():
        bias, interval = squared_bias(blocks - truth[group])
        yield Row(
            name,
            temperature,
            group,
            math.sqrt(max(bias, 0.0)),
            (math.sqrt(max(interval[0], 0.0)), math.sqrt(max(interval[1], 0.0))),
            found.variance[group],
            found.variance[group] + max(bias, 0.0),
            found.cosine[group],
            float(np.linalg.norm(truth[group].mean(axis=0))),
            passes,
            found.milliseconds,
        )


def _count(passes: str) -> int:
    """The number that a sum and product of numbers, such as `(1 + 2) + (1 + 2)`, comes to."""
    total = 0
    for term in passes.replace("(", "").replace(")", "").split("+"):
        total += math.prod(int(factor) for factor in term.split("*"))
    return total
