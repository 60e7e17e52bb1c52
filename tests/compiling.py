"""Programs compiled as for users, whatever `conftest.py` leaves out for the sake of time."""

import functools
import os

import jax

FUSIONS = "xla_cpu_use_fusion_emitters"
# Needs the fixture `optimized` besides, which undoes what is set in jax itself.
optimized_jit = functools.partial(
    jax.jit,
    compiler_options={FUSIONS: True} if FUSIONS in os.environ.get("XLA_FLAGS", "") else {},
)
