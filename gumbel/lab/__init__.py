"""Measurements of gradient estimators: distance from the true gradient, and cost.

`compare` measures estimators on an objective at given parameters: bias with an interval, variance,
mean squared error, cosine, passes, and time, for all parameters together and for each group of
them. The result is plain data that prints as a table. `Comparison.advice` recommends an estimator.
"""

from gumbel.lab.measure import compare
from gumbel.lab.results import Comparison, Row
from gumbel.lab.truth import Progress, Truth, true_gradient

__all__ = ["Comparison", "Progress", "Row", "Truth", "compare", "true_gradient"]
