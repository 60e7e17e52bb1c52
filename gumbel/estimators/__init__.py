"""Gradient estimators for discrete variables, all with the same signature; see `Estimator`.

Importing the package imports all its modules and makes each built-in factory an attribute, under
its name and aliases. Make estimators registered later with `make`.
"""

import importlib
import pkgutil
from typing import Any

from gumbel.estimators.base import (
    Estimator,
    Factory,
    Info,
    Spec,
    State,
    Temperature,
    make,
    names,
    no_state,
    register,
    spec,
    unregister,
)
from gumbel.estimators.options import Range

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
# After the imports, since a module may have the name of its factory.
globals().update(
    {name: spec(each).factory for each in names() for name in (each, *spec(each).aliases)}
)

__all__ = [
    "Estimator",
    "Factory",
    "Info",
    "Range",
    "Spec",
    "State",
    "Temperature",
    "make",
    "names",
    "no_state",
    "register",
    "spec",
    "unregister",
]


def __getattr__(name: str) -> Any:
    # Never called for a registered factory, which is found first; type checkers learn of them here.
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
