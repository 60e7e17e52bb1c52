"""Estimates of memory, against what the functions must write and what the compiler says."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.training import compiled, memory
from experiments.training.dynamic import dynamic_of
from tests.experiments import small

SIDE = 1000
MATRIX = 4 * SIDE**2  # bytes


def products(x: jax.Array) -> jax.Array:
    """Each product is used by the next one alone."""
    for _ in range(5):
        x = jnp.tanh(x @ x)
    return x.sum()


def gradient(x: jax.Array) -> jax.Array:
    """The backward pass reads every product of the forward pass."""
    return jax.grad(products)(x)


def scanned(x: jax.Array) -> jax.Array:
    """What is carried is changed in place; a row of each step is kept."""
    return jax.lax.scan(lambda c, _: (jnp.tanh(c @ c), c[0]), x, None, length=SIDE)[1]


def sampled(x: jax.Array) -> jax.Array:
    """Three products at once, of factors that are three matrices, too."""
    return jax.vmap(lambda scale: jnp.sum((scale * x) @ x))(jnp.arange(3.0))


@pytest.mark.parametrize(
    ("function", "matrices"), [(products, 3), (gradient, 7), (scanned, 3), (sampled, 7)]
)
def test_what_a_function_must_write(function, matrices):
    traced = jax.jit(function).trace(jax.ShapeDtypeStruct((SIDE, SIDE), jnp.float32))
    found = memory.size_of_call(traced) / MATRIX
    assert matrices - 0.1 <= found <= matrices + 1.1


def estimated(settings: Any) -> tuple[int, int]:
    """The estimate of a run's step, and what the compiler says that it takes."""
    program = compiled.Compiled(settings)
    dynamic = {k: v[None] for k, v in dynamic_of(settings).items()}
    state = jax.eval_shape(program.init, dynamic, program.images)
    indices = jax.eval_shape(
        partial(program.indices, num_steps=settings.steps_per_call), dynamic["seed"], 0
    )
    traced = program.run.trace(dynamic, program.images, state, indices, 0, np.ones(1, bool))
    found: Any = traced.lower().compile().memory_analysis()
    return memory.size_of_call(traced), found.temp_size_in_bytes + found.argument_size_in_bytes


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"layers": (2000, 2000)},
        {"layers": (400, 400), "batch_size": 1000},
        {"estimator__name": "vimco", "estimator__num_samples": 50, "batch_size": 200},
        {"estimator__name": "muprop", "layers": (1000, 1000)},
    ],
)
def test_the_estimate_is_about_what_the_compiler_says(options):
    """Or less, as what is refused here must never fit."""
    found, true = estimated(small.settings("sbn", **options))
    assert 0.2 * true <= found <= 1.05 * true


def test_a_limit_is_known_here():
    """In bytes: no machine that runs this has less than 256 MiB, and in KiB none has so much."""
    assert 2**28 < memory.device_memory() < 2**45
