"""Gradient estimators for discrete variables, all with one signature; see `Estimator`.

Every module of this package is imported with it, and every factory that one registers under a name
is an attribute of this name: a new estimator is a new file, and changes no other.
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
from gumbel.estimators.decoupled_st import decoupled_st
from gumbel.estimators.gapped_st import gapped_st
from gumbel.estimators.gumbel_rao import gumbel_rao
from gumbel.estimators.marginalization import marginalization
from gumbel.estimators.nvil import nvil
from gumbel.estimators.pathwise import gumbel_softmax, slope_annealed_st, st, st_gumbel_softmax
from gumbel.estimators.rebar import rebar
from gumbel.estimators.relax import relax
from gumbel.estimators.score_function import sf
from gumbel.estimators.second_order import reinmax, zgr
from gumbel.estimators.taylor import darn, muprop
from gumbel.estimators.vimco import vimco

__all__ = [
    "Estimator",
    "Factory",
    "Info",
    "Spec",
    "State",
    "darn",
    "decoupled_st",
    "gapped_st",
    "gumbel_rao",
    "gumbel_softmax",
    "make",
    "marginalization",
    "muprop",
    "names",
    "nvil",
    "rebar",
    "register",
    "reinmax",
    "relax",
    "sf",
    "slope_annealed_st",
    "spec",
    "st",
    "st_gumbel_softmax",
    "unregister",
    "vimco",
    "zgr",
]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
# After the imports, since a module may be called as its factory.
globals().update({name: spec(name).factory for name in names()})


def __getattr__(name: str) -> Any:
    # Never called for a registered factory, which is found before; it tells type checkers of them.
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
