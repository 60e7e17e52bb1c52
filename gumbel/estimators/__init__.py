"""Gradient estimators for discrete variables, all with the same signature; see `Estimator`.

The package imports all of its modules, and every registered factory is an attribute under its name
and its aliases. So a new estimator is one new file, and no other module of the package changes.
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
    make,
    names,
    register,
    spec,
    unregister,
)

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
    "Spec",
    "State",
    "make",
    "names",
    "register",
    "spec",
    "unregister",
]


def __getattr__(name: str) -> Any:
    # Never called for a registered factory, which is found first; type checkers learn of them here.
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
