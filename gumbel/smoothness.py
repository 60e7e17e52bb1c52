"""Whether the cost has a derivative in the samples, which some estimators live on."""

import jax
from jaxtyping import Array

from gumbel.independence import is_concrete
from gumbel.probes import Probe, replayed
from gumbel.samplers import Pass, hard_draw, trace
from gumbel.sites import FamilyLike
from gumbel.types import Batch, Objective, Params, PRNGKey


def has_derivative(
    objective: Objective, params: Params, batch: Batch, key: PRNGKey, drawn: Pass, site: str
) -> bool:
    """Whether the cost, or the logits of a site, have a derivative in the samples of a site.

    It is false where all that depends on the samples is piecewise constant, as behind an argmax, a
    comparison or a `stop_gradient`. Only the program is looked at and no value, so a derivative
    that happens to be 0 counts as one.

    Args:
      objective, params, batch, key: see `gumbel.Objective`.
      drawn: a pass with these arguments.
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

    values = {name: record.z for name, record in drawn.records.items()}

    def outputs(z: Array) -> list[Array]:
        again = replayed(objective, params, batch, key, drawn.records, {**values, site: z})
        return [noted(x) for x in (again.cost, *(r.logits for r in again.records.values()))]

    # Reverse mode, as a custom_vjp in the objective has no other.
    jax.eval_shape(lambda z: jax.vjp(outputs, z)[0], values[site])
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

    Where `params`, `batch` or `key` are traced, values cannot be compared, and nothing is checked.

    Raises:
      ValueError: it names the site and the estimator, whose gradient would lack the site's part.
    """
    if not is_concrete(params, batch, key):
        return
    drawn = trace(objective, params, batch, key, family, hard_draw)
    for site in drawn.records:
        if has_derivative(objective, params, batch, key, drawn, site):
            continue
        if Probe(objective, params, batch, key, drawn).is_used(site):
            raise ValueError(
                f"the cost has no derivative in the samples of site {site!r}, through which the "
                f"gradient of {estimator!r} flows: write the cost without an argmax, a comparison "
                "or a stop_gradient of the sample, or use a score-function estimator such as 'nvil'"
            )
