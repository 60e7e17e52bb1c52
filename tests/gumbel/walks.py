"""Walks over all registered estimators that stay within the time of the quick suite.

Compiling one estimator takes seconds, and a walk compiles them all. One estimator of each mechanism
is walked by `make test`, the others by `make slow`; a new one joins these. `st` has its mechanism
in common with `gumbel_softmax`, and `sf` its parts with `muprop` and `rloo`. What every estimator
owes to `make test` is its own z-test in `test_estimators`.
"""

from collections.abc import Collection, Iterable
from typing import Any

import pytest

from gumbel import estimators

QUICK = frozenset({"gumbel_softmax", "marginalization", "muprop", "rloo", "vimco"})
# What the registry says of them, written once more: `test_protocol` holds it against this.
STRAIGHT_THROUGH = frozenset({"st", "slope_annealed_st", "gapped_st", "decoupled_st"})
SECOND_ORDER = frozenset({"reinmax", "zgr"})
RELAXED = frozenset({"gumbel_softmax", "st_gumbel_softmax", "gumbel_rao"})
FLOWS = STRAIGHT_THROUGH | SECOND_ORDER | RELAXED
BIASED = FLOWS | {"darn"}
THROUGH_THE_SAMPLE = BIASED | {"rebar", "relax"}  # at least a part of the gradient
INDEPENDENT = tuple(name for name in estimators.names() if name not in FLOWS)
SINGLE_SAMPLE_UNBIASED = tuple(
    name for name in estimators.names() if name not in BIASED | {"vimco"}
)


def walk(names: Iterable[str] = estimators.names(), *, quick: Collection[str] = QUICK) -> list[Any]:
    """The names as parameters of a test, those not in `quick` marked as slow."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]
