"""Configs: their defaults, files, overrides and checks, and the command lines that name them.

`read` is the entry point: it checks a ConfigDict once and returns the frozen `Settings` of a run.
"""

from experiments.config.checks import coarse_schedule, unread
from experiments.config.conversion import (
    base,
    difference,
    differing,
    flatten,
    from_flat,
    get,
    read,
    unchecked,
)
from experiments.config.files import load, load_sweep
from experiments.config.overrides import Overrides, Token, apply

__all__ = [
    "Overrides",
    "Token",
    "apply",
    "base",
    "coarse_schedule",
    "difference",
    "differing",
    "flatten",
    "from_flat",
    "get",
    "load",
    "load_sweep",
    "read",
    "unchecked",
    "unread",
]
