"""How many passes through the objective one surrogate of an estimator takes: `Spec.passes`."""

import re
from collections.abc import Mapping
from typing import Any

from gumbel.estimators import Spec
from gumbel.expressions import evaluated
from gumbel.layouts import count_changes, count_joint, readable
from gumbel.samplers import Pass


def passes(spec: Spec, plan: Pass, options: Mapping[str, Any] | None = None) -> str:
    """`Spec.passes` with numbers for its letters: forward + backward.

    Args:
      spec: spec of the estimator.
      plan: layout of the objective; see `gumbel.layouts.layout`.
      options: options of the estimator that differ from its defaults.
    """
    text, numbers = _counted(spec, plan, options)
    return re.sub(r"\b[LmNV]\b", lambda letter: readable(numbers[letter.group()]), text)


def count_passes(spec: Spec, plan: Pass, options: Mapping[str, Any] | None = None) -> int:
    """Forward and backward passes together; the arguments are those of `passes`."""
    return evaluated(*_counted(spec, plan, options))


def _counted(
    spec: Spec, plan: Pass, options: Mapping[str, Any] | None
) -> tuple[str, dict[str, int]]:
    """The expression of the passes, and what its letters stand for."""
    records = plan.records.values()
    chosen = {name: option.default for name, option in spec.options.items()} | dict(options or {})
    text = next(
        (said for (name, value), said in spec.passes_if.items() if chosen[name] == value),
        spec.passes,
    )
    numbers = {
        "L": len({record.layer for record in records}),
        "m": chosen.get("num_samples", 1),
        "N": count_joint(plan),
        "V": sum(count_changes(record, coupled=plan.coupled) for record in records),
    }
    return text, numbers
