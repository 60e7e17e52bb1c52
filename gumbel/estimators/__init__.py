"""Gradient estimators for discrete variables, all with one signature; see `Estimator`.

Every module of this package is imported with it, and every factory that one registers is an
attribute under its name. So a new estimator is a new file, and changes no other.
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
globals().update({name: spec(name).factory for name in names()})

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
