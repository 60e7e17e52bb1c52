"""What a test needs to run an objective."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from gumbel import Objective


class Case(NamedTuple):
    """An objective, its arguments, and what is known of it.

    Attributes:
      objective, params, batch: see `gumbel.Objective`.
      family: of the sites.
      temperature: one for all sites, or a mapping.
      refused: by estimator that cannot serve it, what it says.
      options: by estimator.
      enumerable: whether the exact gradient is available.
    """

    objective: Objective
    params: Any
    batch: Any
    family: Any
    temperature: Any = 0.7
    refused: Mapping[str, str] = MappingProxyType({})
    options: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
    enumerable: bool = True
