"""Whether the cost is differentiable in the samples, as some estimators require."""

import jax
from jaxtyping import Array

from gumbel.independence import is_concrete, layout
from gumbel.probes import Probe, outputs, replayed
from gumbel.samplers import Records, hard_draw, trace
from gumbel.sites import FamilyLike
from gumbel.types import Batch, Objective, Params, PRNGKey


def has_derivative(
    objective: Objective,
    params: Params,
    batch: Batch,
    key: PRNGKey,
    family: FamilyLike,
    records: Records,
    site: str,
) -> bool:
    """Whether the cost, or the logits of a site, have a derivative in the samples of a site.

    It is false where all that depends on the samples is piecewise constant, as behind an argmax, a
    comparison or a `stop_gradient`. Only the program is looked at and no value, so a derivative
    that happens to be 0 counts as one.

    Args:
      objective, params, batch, key: see `gumbel.Objective`.
      family: family of the sites.
      records: of a pass with these arguments, or their shapes.
      site: whose samples are asked about.
    """
    reached = []

    @jax.custom_jvp
    def noted(output: Array) -> Array:
        return output

    @noted.defjvp
    def note(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
        reached.append(True)  # JAX does not ask for the derivative of what has none
        return primals[0], tangents[0]

    def watched(z: Array, others: dict[str, Array]) -> list[Array]:
        values = {**others, site: z}
        again = replayed(objective, params, batch, key, family, records, values)
        return [noted(output) for output in outputs(again)]

    def linearized(z: Array, others: dict[str, Array]) -> list[Array]:
        # In reverse mode, as a custom_vjp in the objective has no other.
        return jax.vjp(lambda z: watched(z, others), z)[0]

    others = {name: record.z for name, record in records.items() if name != site}
    jax.eval_shape(linearized, records[site].z, others)
    return bool(reached)


def require_smooth(
    objective: Objective,
    params: Params,
    batch: Batch,
    key: PRNGKey,
    family: FamilyLike,
    estimator: str,
) -> None:
    """Refuses an objective whose cost depends on samples of which it has no derivative.

    It runs the objective only if it finds such a site, to see whether the samples are used. Where
    `params`, `batch` or `key` are traced, values cannot be compared, and nothing is checked.

    Raises:
      ValueError: it names the site and the estimator, whose gradient would lack the site's part.
    """
    if not is_concrete(params, batch, key):
        return
    arguments = (objective, params, batch, key, family)
    records = layout(*arguments).records
    flat = [site for site in records if not has_derivative(*arguments, records, site)]
    if not flat:
        return
    probe = Probe(*arguments, trace(*arguments, hard_draw))
    for site in flat:
        if probe.is_used(site):
            raise ValueError(
                f"the cost has no derivative in the samples of site {site!r}, through which the "
                f"gradient of {estimator!r} flows: write the cost without an argmax, a comparison "
                "or a stop_gradient of the sample, or use a score-function estimator such as 'nvil'"
            )
