"""Gradient estimators for discrete variables, all with one signature; see `Estimator`."""

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
from gumbel.estimators.marginalization import marginalization
from gumbel.estimators.nvil import nvil
from gumbel.estimators.pathwise import gumbel_softmax, slope_annealed_st, st, st_gumbel_softmax
from gumbel.estimators.score_function import sf
from gumbel.estimators.taylor import darn, muprop
from gumbel.estimators.vimco import vimco

__all__ = [
    "Estimator",
    "Factory",
    "Info",
    "Spec",
    "State",
    "darn",
    "gumbel_softmax",
    "make",
    "marginalization",
    "muprop",
    "names",
    "nvil",
    "register",
    "sf",
    "slope_annealed_st",
    "spec",
    "st",
    "st_gumbel_softmax",
    "unregister",
    "vimco",
]
