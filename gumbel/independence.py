"""Checks that the examples of a batch are independent, as one cost per example declares."""

import jax
from jaxtyping import Array

from gumbel.layouts import layout
from gumbel.probes import Probe, halves, outputs
from gumbel.programs import depends_across_devices
from gumbel.samplers import hard_draw, trace
from gumbel.sites import FamilyLike, Site
from gumbel.tracing import is_concrete, varying_axes
from gumbel.types import Batch, Objective, Params, PRNGKey, Sample

# The fewest sets of examples that `leaks` flips, and the fewest starts.
MIN_FLIPS = 64
MIN_STARTS = 4
# How often a cost must change if it is small beside the rounding errors of others.
_RECURS = 4


def leaks(probe: Probe) -> tuple[str, ...]:
    """The sites at which one example's samples change another example's cost.

    Flips the samples of some examples, and looks for changes in the outputs of the others. It does
    so for sets of examples that separate any two, from several starts. Changes that are small
    beside the largest cost must recur.

    Args:
      probe: probe of an objective that returns a cost for each example, or one for all, which may
        depend on the samples of all.
    """
    drawn = probe.drawn
    if drawn.coupled or drawn.cost.shape[0] < 2:
        return ()
    sets, num_slight = list(halves(drawn.cost.shape[0])), 0
    for number in range(max(MIN_STARTS, MIN_FLIPS // len(sets))):
        start = probe.start(number)
        for rows in sets:
            found = probe.compared(start, drawn.records, rows)
            num_slight += found.slightly
            if found.targets or num_slight >= _RECURS:
                each = {site: probe.compared(start, [site], rows) for site in drawn.records}
                alone = [site for site, one in each.items() if one.targets or one.slightly]
                return tuple(alone or drawn.records)
    return ()


def require_independent(
    objective: Objective, params: Params, batch: Batch, key: PRNGKey, family: FamilyLike
) -> None:
    """Raises ValueError if there is one cost per example but examples depend on each other.

    It runs the objective, compiled, some 60 to 100 times. Where `params`, `batch`, `key` or the
    cost are traced, values cannot be compared, and only `require_local` is checked.

    Raises:
      ValueError: it names a site whose samples change another example's cost.
    """
    if not is_concrete(params, batch, key):
        require_local(objective, params, batch, key, family)
        return
    probe = Probe(objective, params, batch, key, family)
    if probe.concrete and (found := leaks(probe)):
        raise ValueError(
            f"the samples of one example at site {found[0]!r} change the cost of another: return a "
            "scalar cost, which couples the examples, or put the batch axis first in the logits"
        )


def require_local(
    objective: Objective, params: Params, batch: Batch, key: PRNGKey, family: FamilyLike
) -> None:
    """Raises ValueError if, under `shard_map`, the cost depends on samples of other devices.

    A device has only the scores of its own samples, which are not all of such a cost's gradient.
    The objective is only traced; outside of `shard_map` and `pmap`, nothing is checked.

    Raises:
      ValueError: a collective leads from the samples to the cost, or to the logits of a site.
    """
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return
    arguments = (objective, params, batch, key, family)
    records = layout(*arguments).records
    axes: set[str] = set()

    def note() -> None:
        drawn = trace(*arguments, hard_draw)
        axes.update(varying_axes(record.z for record in drawn.records.values()))

    def found(values: dict[str, Sample]) -> list[Array]:
        def given(site: Site, _key: PRNGKey) -> Sample:
            return site.given + 0 * site.logits  # so that it varies as the logits do

        return outputs(trace(*arguments, given, given=values, like=records))

    jax.eval_shape(note)
    values = {site: record.z for site, record in records.items()}
    if depends_across_devices(found, values, axes=frozenset(axes)):
        raise ValueError(
            "a collective of the objective, such as psum or all_gather, makes the cost depend on "
            "the samples of other devices, whose scores are missing here: divide the batch by "
            "jax.jit with shardings instead of shard_map, or use an estimator whose gradient flows "
            "through the sample"
        )
