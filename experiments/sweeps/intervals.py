"""Confidence intervals of a mean over seeds."""

import math
import statistics
from collections.abc import Sequence

import numpy as np


def half_width(values: Sequence[float]) -> float:
    """Half the 95% confidence interval of the mean, by Student's t; NaN for fewer than two values.

    Example:
      >>> round(half_width([59.0, 60.0, 61.0]), 2)
      2.48
    """
    from scipy import stats  # takes a second to import

    if len(values) < 2 or not all(map(math.isfinite, values)):
        return math.nan
    return float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(np.asarray(values)))


def interval(values: Sequence[float]) -> list[float] | None:
    """The 95% confidence interval of the mean by Student's t, or None for a single value.

    Example:
      >>> [round(bound, 2) for bound in interval([59.0, 60.0, 61.0])]
      [57.52, 62.48]
    """
    if len(values) < 2:
        return None
    half, mean = half_width(values), statistics.fmean(values)
    return [mean - half, mean + half]
