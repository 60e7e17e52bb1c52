"""Every estimator under JAX's strict and special modes, on an objective of both families.

It has a masked variable, an impossible value, a loop and more outputs. Modes that concern types are
held by tracing alone; for NaN each operation's result is looked at, by checks inside the program.
"""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

from gumbel import estimators
from tests.gumbel.test_modes import both, with_nan_checks
from tests.gumbel.walks import QUICK, walk

KEY = jax.random.key(0)
TRACED = {
    "strict dtypes and ranks": lambda: both(
        jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise")
    ),
    "x64, strict dtypes and ranks": lambda: both(
        jax.enable_x64(True),
        both(jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise")),
    ),
    "checking_leaks": jax.checking_leaks,
}
TEMPERATURE = {"edge": 0.5, "gate": 1.0}
every_estimator = pytest.mark.parametrize("name", walk())
# Relaxed samples are looked at in `test_modes`.
NAN_CHECKED = {"marginalization", "muprop", "vimco"}
# Tracing is cheap: also one of each mechanism that the other walks leave to `make slow`.
MECHANISMS = {"arms", "indecater", "relax", "rodeo", "unordered_set"}


def objective(params, batch, key, sample):
    logits = params["edge"][None] + batch["x"]
    edge = sample("edge", jnp.where(batch["possible"], logits, -jnp.inf), family="categorical")

    def step(total, x):
        logits = params["gate"][None] * x
        gate = sample("gate", logits, family="bernoulli", where=batch["where"])
        return jnp.tanh(total + gate.sum(axis=-1)), gate

    start = edge @ params["value"]
    total, gates = sample.scan(step, start, jnp.stack([batch["x"], 2 * batch["x"]]))
    return jnp.square(total), gates


def arguments(dtype):
    """Made under the mode; of one dtype, which need not be the widest."""
    params = {
        "edge": jnp.array([0.3, -0.2, 0.1], dtype),
        "gate": jnp.array([0.5, -1.0, 0.2], dtype),
        "value": jnp.array([0.5, 1.0, -1.0], dtype),
    }
    batch = {
        "x": jnp.array([[0.2, -0.4, 1.0], [1.5, 0.3, -0.6]], dtype),
        "possible": jnp.array([[True, True, False], [True, True, True]]),
        "where": jnp.array([[True, False, True], [True, True, True]]),
    }
    return params, batch


def gradient_and_state(name):
    # nvil's baseline joins the arrays of a batch, which are of different dtypes here.
    options = {"features": lambda batch: batch["x"].astype(jnp.float32)} if name == "nvil" else {}
    estimator = estimators.make(name, **options)

    def run(params, batch, key):
        state = estimator.init(objective, params, batch, key)
        gradient, (next_state, info) = jax.grad(estimator.surrogate, argnums=1, has_aux=True)(
            objective, params, batch, key, TEMPERATURE, state
        )
        return gradient, state, next_state, info

    return run


@pytest.mark.parametrize("mode", walk(TRACED, quick=["x64, strict dtypes and ranks"]))
@pytest.mark.parametrize("name", walk(quick=QUICK | MECHANISMS))
def test_types(name, mode):
    with TRACED[mode]():
        params, batch = arguments(jnp.float32)
        found = jax.eval_shape(gradient_and_state(name), params, batch, jax.random.key(0))
    gradient, state, next_state, info = found
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype(jnp.float32)}
    assert info.cost.dtype == jnp.float32
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), next_state
    )


@every_estimator
def test_float64_models_stay_float64_in_strict_modes_too(name):
    with TRACED["x64, strict dtypes and ranks"]():
        params, batch = arguments(jnp.float64)
        found = jax.eval_shape(gradient_and_state(name), params, batch, jax.random.key(0))
    gradient, state, next_state, info = found
    dtypes = {leaf.dtype for leaf in jax.tree.leaves((gradient, info.cost))}
    assert dtypes == {jnp.dtype(jnp.float64)}
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), next_state
    )


@pytest.mark.parametrize(
    "name",  # what `rebar` holds `relax` does too
    [pytest.param("rebar", marks=pytest.mark.slow), "relax", "rodeo", "nvil", "muprop"],
)
def test_the_first_state_can_be_donated(name):
    """A buffer that two leaves share could not be."""

    def of_two_sites(params, batch, key, sample):
        first = sample("first", params + batch)
        return jnp.square(first - sample("second", params * first + batch)).sum(axis=-1)

    estimator = estimators.make(name, "bernoulli")
    # Without jit, whose outputs have buffers of their own.
    state = estimator.init(of_two_sites, jnp.array([0.3, -0.2]), jnp.zeros((2, 2)), KEY)
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
    assert len(set(buffers)) == len(buffers)


def assert_finite(gradient, next_state, info):
    for leaf in jax.tree.leaves((gradient, next_state, info)):
        assert np.isfinite(np.asarray(leaf)).all()
    assert float(jnp.abs(gradient["gate"]).sum()) > 0


@pytest.mark.parametrize("name", walk(quick=NAN_CHECKED))
def test_no_operation_gives_nan(name):
    run = with_nan_checks(gradient_and_state(name))
    gradient, _, next_state, info = run(*arguments(jnp.float32), KEY)
    assert_finite(gradient, next_state, info)


@pytest.mark.slow
@every_estimator
def test_no_single_operation_gives_nan_without_jit(name):
    with jax.disable_jit(), jax.debug_nans(True):
        params, batch = arguments(jnp.float32)
        gradient, _, next_state, info = gradient_and_state(name)(params, batch, KEY)
    assert_finite(gradient, next_state, info)


def test_the_modes_catch_what_they_are_for():
    x = jnp.ones((2, 3))
    with TRACED["strict dtypes and ranks"]():
        with pytest.raises(ValueError, match="rank"):
            jax.eval_shape(lambda x: x + x[0], x)
        with pytest.raises(ValueError, match="promotion"):
            jax.eval_shape(lambda x: x + jnp.zeros((2, 3), jnp.bfloat16), x)
    kept = []
    gc.freeze()  # JAX looks through all objects for who holds the leak; few are left for it
    try:
        with jax.checking_leaks(), pytest.raises(Exception, match=r"[Ll]eaked"):
            jax.eval_shape(lambda x: kept.append(x + 1), x)
    finally:
        gc.unfreeze()
    hidden = with_nan_checks(lambda x: jnp.where(x > 0, x, jnp.log(-x)))
    with pytest.raises(checkify.JaxRuntimeError, match="nan generated by primitive: log"):
        hidden(x)
    with jax.disable_jit(), jax.debug_nans(True), pytest.raises(FloatingPointError):
        jnp.where(x > 0, x, jnp.log(-x))
