"""Whether the cost is differentiable in the samples, as some estimators require."""

import textwrap
from collections.abc import Collection, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from gumbel.layouts import layout
from gumbel.lines import hidden_changes
from gumbel.probes import (
    MaskOf,
    Probe,
    Target,
    Targets,
    leading,
    outputs,
    reaching_cost,
    targets_of,
)
from gumbel.samplers import Records, replayed
from gumbel.sites import FamilyLike
from gumbel.tracing import is_concrete
from gumbel.types import Batch, Objective, Params, PRNGKey


class Derivatives(NamedTuple):
    """What has a derivative in the samples of a site.

    Attributes:
      targets: the cost, and the logits of which sites; none if JAX cannot differentiate.
      error: what JAX raised where it cannot differentiate the program in the samples.
    """

    targets: Targets
    error: Exception | None = None

    @property
    def message(self) -> str:
        """The error in one line; empty if there is none."""
        return "" if self.error is None else one_line(self.error)


def one_line(error: Exception) -> str:
    """What an error says, shortened to a line."""
    said = str(error).partition("\n" + "-" * 20)[0]  # below that, JAX speaks of its frames
    return textwrap.shorten(said or type(error).__name__, 300, placeholder=" ...").rstrip(".")


def derivatives(
    objective: Objective,
    params: Params,
    batch: Batch,
    key: PRNGKey,
    family: FamilyLike,
    records: Records,
    site: str,
) -> Derivatives:
    """What has a derivative in the samples of a site: the cost, and the logits of which sites.

    What is piecewise constant, such as behind an argmax or a comparison, or behind a
    `stop_gradient`, has none. Only the program is inspected, not its values, so a derivative that
    happens to be 0 counts as one. JAX cannot differentiate the program if samples pass through a
    callback or a `while_loop`, for example, or if a `custom_vjp` in it is wrong.

    Args:
      objective, params, batch, key: see `gumbel.Objective`.
      family: family of the sites.
      records: records of a pass with these arguments, or their shapes.
      site: name of the site.
    """
    reached: set[Target] = set()

    def noted(output: Array, name: Target) -> Array:
        @jax.custom_jvp
        def identity(output: Array) -> Array:
            return output

        @identity.defjvp
        def note(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
            reached.add(name)  # JAX does not ask for the derivative of what has none
            return primals[0], tangents[0]

        return identity(output)

    def watched(z: Array, others: dict[str, Array]) -> list[Array]:
        values = {**others, site: z}
        again = replayed(objective, params, batch, key, family, records, values)
        return [noted(*pair) for pair in zip(outputs(again), targets_of(records), strict=True)]

    def pulled(z: Array, others: dict[str, Array]) -> Array:
        # In reverse mode, the only one of a custom_vjp; and with the backward pass, in which a loop
        # without a fixed number of steps fails.
        found, pullback = jax.vjp(lambda z: watched(z, others), z)
        return pullback(list(map(jnp.ones_like, found)))[0]

    others = {name: record.z for name, record in records.items() if name != site}
    try:
        jax.eval_shape(pulled, records[site].z, others)
    except (NotImplementedError, ValueError) as error:
        return Derivatives(frozenset(), error)
    return Derivatives(frozenset(reached))


class Dependence(NamedTuple):
    """How the cost depends on the samples of each site.

    Attributes:
      used: the sites on whose samples it depends, directly or by way of other sites.
      smooth: the sites from which a chain of derivatives leads to the cost.
      breaks: the sites of `used` that change the cost, or the logits or mask of another site of
        `used`, without a derivative.
    """

    used: frozenset[str]
    smooth: frozenset[str]
    breaks: frozenset[str]


def dependence(targets: Mapping[str, Targets], slopes: Mapping[str, Targets]) -> Dependence:
    """Sorts sites by what changes with their samples, and by what has a derivative in them.

    Args:
      targets: see `Probe.targets`; those of relaxed samples show jumps between 0 and 1.
      slopes: see `derivatives`.

    Example:
      >>> targets = {"mask": frozenset({"x"}), "x": frozenset({None})}
      >>> slopes = {"mask": frozenset(), "x": frozenset({None})}
      >>> dependence(targets, slopes).breaks
      frozenset({'mask'})
    """
    used = reaching_cost(targets)
    breaks = {site for site in used if (targets[site] - slopes[site]) & leading(used)}
    return Dependence(used, reaching_cost(slopes), frozenset(breaks))


def require_smooth(
    objective: Objective,
    params: Params,
    batch: Batch,
    key: PRNGKey,
    family: FamilyLike,
    estimator: str,
    *,
    everywhere: bool = False,
) -> None:
    """Raises ValueError if the cost depends on samples but has no derivative in them.

    If something has no derivative, it runs the objective, to see whether it depends on the samples
    all the same: compiled, 8 times and 8 more for each site. With `everywhere`, it also compares
    the change of what has a derivative with the integral of that, by some 24 passes for each site.
    Where `params`, `batch`, `key` or the cost are traced, values cannot be compared, and nothing is
    checked.

    Args:
      objective, params, batch, key: see `gumbel.Objective`.
      family: family of the sites.
      estimator: its name, for the message.
      everywhere: whether everything that depends on a site's samples must have a derivative in
        them, and change by its integral only, as the proof of an unbiased estimator requires; else
        one chain to the cost is enough.

    Raises:
      ValueError: the message names the site and the estimator, whose gradient would lack its part.
    """
    if not is_concrete(params, batch, key):
        return
    arguments = (objective, params, batch, key, family)
    records = layout(*arguments).records
    tried = {site: derivatives(*arguments, records, site) for site in records}
    slopes = {site: found.targets for site, found in tried.items()}
    some_flat = reaching_cost(slopes) != set(records)
    some_may_jump = everywhere and not all(
        slopes[site] >= _later(records, site) for site in records
    )
    if not (some_flat or everywhere):
        return
    probe = Probe(*arguments)
    if not probe.concrete:
        return
    if some_flat:
        found = dependence(probe.targets(records), slopes)
        if (site := _first(records, found.breaks - found.smooth)) is not None:
            if (error := tried[site].error) is not None:
                raise ValueError(
                    f"JAX cannot differentiate the cost in the samples of site {site!r}, through "
                    f"which the gradient of {estimator!r} flows: {one_line(error)}; correct this, "
                    "or use a score-function estimator such as 'nvil'"
                ) from error
            raise ValueError(
                f"the cost has no derivative in the samples of site {site!r}, through which the "
                f"gradient of {estimator!r} flows: write the cost without an argmax, a comparison "
                "or a stop_gradient of the sample, or use a score-function estimator such as 'nvil'"
            )
    if some_may_jump:
        jumps = dependence(probe.targets(records, relaxed=True), slopes).breaks
        if (site := _first(records, jumps)) is not None:
            raise ValueError(
                f"something that depends on the samples of site {site!r}, such as a mask, has no "
                f"derivative in them, which biases {estimator!r}: multiply by the sample instead, "
                "or use 'muprop' or 'rloo'"
            )
    hidden = hidden_changes(*arguments, probe, slopes) if everywhere else ()
    if (site := _first(records, hidden)) is not None:
        raise ValueError(
            f"a part of the cost has no derivative in the samples of site {site!r}, behind a "
            f"comparison, an argmax or a stop_gradient, which biases {estimator!r}: write the cost "
            "without it, or use 'muprop' or 'rloo'"
        )


def undifferentiable(
    objective: Objective, params: Params, batch: Batch, key: PRNGKey, family: FamilyLike
) -> tuple[str, Exception] | None:
    """The first site in whose samples JAX cannot differentiate an objective, and what it raises.

    The objective is only traced. The arguments are those of `require_smooth`.
    """
    arguments = (objective, params, batch, key, family)
    records = layout(*arguments).records
    tried = ((site, derivatives(*arguments, records, site).error) for site in records)
    return next(((site, error) for site, error in tried if error is not None), None)


def _first(records: Records, sites: Collection[str]) -> str | None:
    """The first of these sites, in the order of the calls."""
    return next((site for site in records if site in sites), None)


def _later(records: Records, site: str) -> Targets:
    """All that can depend on the samples of a site: the cost, later sites' logits and masks."""
    own = records[site]
    sites = {
        name
        for name, record in records.items()
        if record.layer > own.layer or (record.layer == own.layer and own.loops)
    }
    masked = {MaskOf(site) for site in sites if records[site].where is not None}
    return frozenset({None, *sites, *masked})
