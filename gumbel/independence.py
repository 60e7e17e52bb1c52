"""Whether the examples of a batch are as independent as a cost of one per example says."""

from gumbel.probes import Probe, halves
from gumbel.sites import FamilyLike
from gumbel.tracing import is_concrete
from gumbel.types import Batch, Objective, Params, PRNGKey

# `leaks` flips at least so many sets of examples, from at least so many starts.
MIN_FLIPS = 64
MIN_STARTS = 4


def leaks(probe: Probe) -> tuple[str, ...]:
    """The sites at which one example's samples change another example's cost.

    Flips the samples of some examples, and looks for changes in the outputs of the others. It does
    so for sets of examples that separate any two, from several starts.

    Args:
      probe: of an objective that returns a cost for each example, or one for all, which may depend
        on the samples of all.
    """
    drawn = probe.drawn
    if drawn.coupled or drawn.cost.shape[0] < 2:
        return ()
    sets = list(halves(drawn.cost.shape[0]))
    for number in range(max(MIN_STARTS, MIN_FLIPS // len(sets))):
        start = probe.start(number)
        for rows in sets:
            if probe.changes(start, drawn.records, rows):
                alone = [site for site in drawn.records if probe.changes(start, [site], rows)]
                return tuple(alone or drawn.records)
    return ()


def require_independent(
    objective: Objective, params: Params, batch: Batch, key: PRNGKey, family: FamilyLike
) -> None:
    """Refuses an objective of one cost per example whose examples depend on each other.

    It runs the objective, compiled, some 60 to 100 times. Where `params`, `batch`, `key` or the
    cost are traced, values cannot be compared, and nothing is checked.

    Raises:
      ValueError: it names a site whose samples change another example's cost.
    """
    if not is_concrete(params, batch, key):
        return
    probe = Probe(objective, params, batch, key, family)
    if probe.concrete and (found := leaks(probe)):
        raise ValueError(
            f"the samples of one example at site {found[0]!r} change the cost of another: return a "
            "scalar cost, which couples the examples, or put the batch axis first in the logits"
        )
