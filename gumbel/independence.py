"""Whether the examples of a batch are as independent as a cost of one per example says."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gumbel.samplers import Pass, Record, Records, hard_draw, trace
from gumbel.sites import FamilyLike
from gumbel.types import Batch, Objective, Params, PRNGKey, Sample


def layout(
    objective: Objective, params: Params, batch: Batch, key: PRNGKey, family: FamilyLike
) -> Pass:
    """A pass of which only shapes are known, found without running the objective.

    Returns:
      A pass whose arrays, but for `aux`, are `jax.ShapeDtypeStruct`s; `aux` is None if there is
      none, else something else.
    """
    found: list[Pass] = []

    def note(params: Params, batch: Batch, key: PRNGKey) -> None:
        drawn = trace(objective, params, batch, key, family, hard_draw)
        records = {
            site: record._replace(
                logits=_shape(record.logits),
                z=_shape(record.z),
                where=None if record.where is None else _shape(record.where),
            )
            for site, record in drawn.records.items()
        }
        found.append(Pass(_shape(drawn.cost), records, None if drawn.aux is None else ()))

    jax.eval_shape(note, params, batch, key)
    return found[0]


def _shape(array: Any) -> Any:
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def event_shape(record: Record, *, coupled: bool) -> tuple[int, ...]:
    """The shape of what one cost depends on at a site: without the batch axis, unless coupled."""
    shape = tuple(record.logits.shape)
    return shape if coupled else shape[1:]


def num_variables(record: Record, *, coupled: bool) -> int:
    """How many variables that is."""
    shape = event_shape(record, coupled=coupled)
    return math.prod(shape[: len(shape) - record.family.event_ndims])


def count_values(record: Record, *, coupled: bool) -> int:
    """How many joint values that has: K to the power of the number of variables."""
    num_values = record.family.num_values(tuple(record.logits.shape))
    count: int = num_values ** num_variables(record, coupled=coupled)
    return count


def is_concrete(*trees: Any) -> bool:
    """Whether no array in the trees is traced, nor anything computed here, as under `jit`.

    Example:
      >>> is_concrete({"w": jnp.ones(2)}, 1.0)
      True
    """
    leaves = [*jax.tree.leaves(trees), jnp.zeros(())]
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)


def flipped(z: Sample, record: Record) -> Sample:
    """Another value for every variable: `1 - z`, or the next of K values."""
    return jnp.roll(z, 1, axis=-1) if record.family.event_ndims else 1 - z


def with_flipped(
    objective: Objective,
    params: Params,
    batch: Batch,
    key: PRNGKey,
    drawn: Pass,
    site: str,
    *,
    every: int,
) -> Pass:
    """A pass like `drawn`, but for the samples of one site, which are flipped.

    The other sites keep the values that they have in `drawn`, so that the effect on them shows in
    their logits.

    Args:
      objective, params, batch: concrete.
      key: of `drawn`.
      drawn: a pass with discrete samples.
      site: whose samples are flipped.
      every: 1 for all the batch, 2 for the odd examples.
    """
    values = {name: record.z for name, record in drawn.records.items()}
    flip = flipped(values[site], drawn.records[site])
    values[site] = flip if every == 1 else values[site].at[1::2].set(flip[1::2])
    return replayed(objective, params, batch, key, drawn.records, values)


def replayed(
    objective: Objective,
    params: Params,
    batch: Batch,
    key: PRNGKey,
    records: Records,
    values: dict[str, Sample],
) -> Pass:
    """A pass with given values at every site."""
    families = {site: record.family for site, record in records.items()}
    return trace(
        objective,
        params,
        batch,
        key,
        families,
        lambda site, _key: site.given,
        given=values,
        like=records,
    )


def effects(drawn: Pass, rows: slice = slice(None)) -> list[np.ndarray]:
    """What the samples of a pass can change: its costs, and its sites' logits."""
    arrays = [drawn.cost, *(record.logits for record in drawn.records.values())]
    return [np.asarray(array, np.float64)[() if drawn.coupled else rows] for array in arrays]


def differ(before: list[np.ndarray], after: list[np.ndarray]) -> bool:
    """Whether two lists of effects are not the same to rounding."""
    return not all(
        np.allclose(one, other, rtol=1e-4, atol=1e-5, equal_nan=True)
        for one, other in zip(before, after, strict=True)
    )


def leaks(
    objective: Objective, params: Params, batch: Batch, key: PRNGKey, drawn: Pass
) -> tuple[str, ...]:
    """The sites at which one example's samples change another example's cost.

    The odd examples' samples are flipped, a site at a time: nothing of the even ones may move. The
    arguments are those of `with_flipped`.
    """
    if drawn.coupled or drawn.cost.shape[0] < 2:
        return ()
    even = slice(None, None, 2)
    before = effects(drawn, even)
    return tuple(
        site
        for site in drawn.records
        if differ(
            before,
            effects(with_flipped(objective, params, batch, key, drawn, site, every=2), even),
        )
    )


def require_independent(
    objective: Objective, params: Params, batch: Batch, key: PRNGKey, family: FamilyLike
) -> None:
    """Refuses an objective of one cost per example whose examples depend on each other.

    It runs the objective twice or more, once for each site. Where `params`, `batch` or `key` are
    traced, values cannot be compared, and nothing is checked.

    Raises:
      ValueError: it names a site whose samples change another example's cost.
    """
    if not is_concrete(params, batch, key):
        return
    drawn = trace(objective, params, batch, key, family, hard_draw)
    found = leaks(objective, params, batch, key, drawn)
    if found:
        raise ValueError(
            f"the samples of one example at site {found[0]!r} change the cost of another: return a "
            "scalar cost, which couples the examples, or put the batch axis first in the logits"
        )
