"""The shapes of a pass, and how many values its variables have."""

import math
from typing import Any

import jax

from gumbel.samplers import Pass, Record, hard_draw, trace
from gumbel.sites import FamilyLike
from gumbel.types import Batch, Objective, Params, PRNGKey


def layout(
    objective: Objective, params: Params, batch: Batch, key: PRNGKey, family: FamilyLike
) -> Pass:
    """A pass of which only shapes are known, found without running the objective.

    Returns:
      A pass whose arrays, except `aux`, are `jax.ShapeDtypeStruct`s; `aux` is None if there is
      none, else a placeholder.
    """
    found: list[Pass] = []

    def note() -> None:
        drawn = trace(objective, params, batch, key, family, hard_draw)
        records = {
            site: record._replace(
                logits=_shape(record.logits),
                z=_shape(record.z),
                where=None if record.where is None else _shape(record.where),
            )
            for site, record in drawn.records.items()
        }
        aux = None if drawn.aux is None else ()
        found.append(Pass(_shape(drawn.cost), records, aux, drawn.observed))

    jax.eval_shape(note)
    return found[0]


def _shape(array: Any) -> Any:
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def event_shape(record: Record, *, coupled: bool) -> tuple[int, ...]:
    """The shape of what one cost depends on at a site: without the batch axis, unless coupled."""
    shape = tuple(record.logits.shape)
    return shape if coupled else shape[1:]


def num_variables(record: Record, *, coupled: bool) -> int:
    """How many variables one cost depends on at a site."""
    return record.family.num_variables(event_shape(record, coupled=coupled))


def count_values(record: Record, *, coupled: bool) -> int:
    """How many joint values those variables have: K to the power of their number."""
    count: int = record.num_values ** num_variables(record, coupled=coupled)
    return count


def count_joint(plan: Pass) -> int:
    """How many joint values the sites of a pass have together."""
    return math.prod(count_values(record, coupled=plan.coupled) for record in plan.records.values())


def count_changes(record: Record, *, coupled: bool) -> int:
    """How many joint values differ from a given one in a single variable."""
    return num_variables(record, coupled=coupled) * (record.num_values - 1)


def readable(count: int) -> str:
    """A count in digits, or as a power of ten if they are many.

    Example:
      >>> readable(50_000), readable(512**64)
      ('50000', 'about 10^173')
    """
    return str(count) if count < 10**12 else f"about 10^{math.log10(count):.0f}"
