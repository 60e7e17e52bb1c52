"""Whether a state has kept what was learned."""

from typing import Any

import jax
import numpy as np


def keeps_its_size(before: Any, after: Any) -> bool:
    """Whether no array of numbers has shrunk to less than half of its norm.

    A step without a gradient lowers the averages of an optimizer by a tenth at most, and moves the
    parameters by its momentum.
    """
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return all(np.linalg.norm(new) >= 0.5 * np.linalg.norm(old) for old, new in pairs)
