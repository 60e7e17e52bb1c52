"""One bad batch changes nothing for good: the state stays finite, and what was learned is kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gumbel import BERNOULLI, CATEGORICAL, estimators
from tests.gumbel.recovered import keeps_its_size
from tests.gumbel.walks import SINGLE_SAMPLE_UNBIASED, walk

KEY = jax.random.key(8)
TEMPERATURE = 0.7


def objective(params, batch, key, sample):
    z = sample("z", params + batch["x"])
    return jnp.square(z @ jnp.array([1.0, -2.0, 0.5]) - 0.3) + batch["more"]


def batch_with(more):
    return {"x": jnp.array([[0.3, -0.1, 0.2], [0.0, 0.4, -0.5]]), "more": jnp.array([more, 0.0])}


def finite(tree):
    return all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", walk(quick=("nvil", "rodeo", "sf")))
def test_a_cost_that_is_not_finite_does_not_spoil_the_state(name):
    estimator = estimators.make(name, BERNOULLI)
    gradient = jax.grad(estimator.surrogate, argnums=1, has_aux=True)
    params = jnp.zeros(3)
    init = jax.jit(lambda first: estimator.init(objective, params, first, KEY))

    @jax.jit
    def step(batch, key, state):
        found, (state, _) = gradient(objective, params, batch, key, TEMPERATURE, state)
        return found, state

    good, infinite, undefined = map(batch_with, (0.0, jnp.inf, jnp.nan))
    for first in (good, infinite, undefined):
        state = init(first)
        for number, batch in enumerate((good, infinite, undefined, good)):
            before = state
            found, state = step(batch, jax.random.fold_in(KEY, number), state)
            assert finite(state)
            assert batch is good or keeps_its_size(before, state)
        assert finite(found)


@pytest.mark.parametrize("family", [BERNOULLI, CATEGORICAL], ids=str)
@pytest.mark.parametrize("name", ["decoupled_st", "gapped_st", "gumbel_rao", "st_gumbel_softmax"])
def test_an_excluded_value_has_no_derivative_in_the_temperature(name, family):
    """With one value left it is 0; with two, and other noise for them, it is finite and not 0."""
    estimator = estimators.make(name, family)
    slope = jax.jit(
        lambda batch: jax.grad(estimator.surrogate, argnums=4, has_aux=True)(
            objective, jnp.zeros(3), batch, KEY, TEMPERATURE, ()
        )[0]
    )

    def at(*logits):
        return float(slope({"x": jnp.array([logits] * 2), "more": jnp.zeros(2)}))

    certain = (jnp.inf, jnp.inf, -jnp.inf) if family is BERNOULLI else (0.0, *[-jnp.inf] * 2)
    assert at(*certain) == 0
    assert np.isfinite(at(0.0, 1.0, -jnp.inf))
    assert at(0.0, 1.0, -jnp.inf) != 0


@pytest.mark.parametrize("name", walk(SINGLE_SAMPLE_UNBIASED, quick=("indecater", "unordered_set")))
def test_an_excluded_value_may_cost_infinitely_much(name):
    def expensive(params, batch, key, sample):
        z = sample("z", jnp.array([[0.0, 0.0, -jnp.inf]]) + params)
        return z[:, 1] + jnp.where(z[:, 2] > 0.5, jnp.inf, 0.0)

    estimator, params = estimators.make(name, CATEGORICAL), jnp.array([0.2, -0.1, 0.0])
    batch = jnp.zeros((1, 3))
    state = estimator.init(expensive, params, batch, KEY)
    gradient = jax.grad(estimator.surrogate, argnums=1, has_aux=True)
    gradient = jax.jit(gradient, static_argnums=0)
    assert finite(gradient(expensive, params, batch, KEY, TEMPERATURE, state)[0])


@pytest.mark.parametrize("name", walk(SINGLE_SAMPLE_UNBIASED, quick=("arm", "disarm")))
def test_a_constant_variable_has_no_gradient_and_leaves_the_cost_finite(name):
    def linear(params, batch, key, sample):
        return sample("z", params) @ jnp.array([1.0, 2.0, 3.0])

    params = jnp.array([[jnp.inf, -jnp.inf, 0.2]])
    options = {"features": lambda batch: jnp.zeros((1, 1))} if name == "nvil" else {}
    estimator = estimators.make(name, BERNOULLI, **options)
    state = estimator.init(linear, params, None, KEY)
    gradient = jax.value_and_grad(estimator.surrogate, argnums=1, has_aux=True)
    gradient = jax.jit(gradient, static_argnums=0)
    (value, _), found = gradient(linear, params, None, KEY, TEMPERATURE, state)
    assert finite((value, found))
    np.testing.assert_array_equal(found[0, :2], 0)


@pytest.mark.parametrize("name", walk(quick=("unordered_set", "rloo")))
def test_sites_without_an_axis_of_variables_in_float64(name):
    def bare(params, batch, key, sample):
        first = sample("first", params + batch, family="categorical")  # [B, K]
        second = sample("second", first[:, 0], family="bernoulli")  # [B]
        return jnp.square(first[:, 1] - 0.5 * second)

    with jax.enable_x64(True):
        estimator = estimators.make(name)
        batch, params = jnp.zeros((2, 3)), jnp.array([0.3, -0.2, 0.1])

        def run(params, batch):
            state = estimator.init(bare, params, batch, KEY)
            return jax.grad(estimator.surrogate, argnums=1, has_aux=True)(
                bare, params, batch, KEY, TEMPERATURE, state
            )

        found, (_, info) = jax.eval_shape(run, params, batch)
        assert found.dtype == info.cost.dtype == jnp.float64
        assert info.cost.shape == (2,)


@pytest.mark.parametrize("size", [1, 2])
def test_the_state_of_nvil_has_the_same_shape_for_a_batch_of_one(size):
    estimator = estimators.make("nvil", BERNOULLI, features=lambda batch: batch["x"])
    batch = jax.tree.map(lambda leaf: leaf[:size], batch_with(0.0))

    def run(params):
        state = estimator.init(objective, params, batch, KEY)
        _, (after, info) = estimator.surrogate(objective, params, batch, KEY, 1.0, state)
        return state, after, info

    state, after, info = jax.eval_shape(run, jnp.zeros(3))
    assert state.unit.shape == after.unit.shape == ()
    assert {value.shape for value in info.metrics.values()} == {()}


@pytest.mark.parametrize("name", walk(quick=("arms", "rloo")))
def test_a_batch_may_hold_a_plain_number_that_shapes_depend_on(name):
    def steps(params, batch, key, sample):
        def body(total, _):
            return total + sample("z", params + batch["x"]) @ jnp.ones(2), None

        return sample.scan(body, jnp.zeros(2), length=batch["steps"])[0]

    options = {"features": lambda batch: batch["x"]} if name == "nvil" else {}
    estimator = estimators.make(name, BERNOULLI, **options)
    batch, params = {"x": jnp.zeros((2, 2)), "steps": 3}, jnp.zeros(2)

    def run(params, key):
        state = estimator.init(steps, params, batch, key)
        return estimator.surrogate(steps, params, batch, key, 1.0, state)[0]

    assert jax.eval_shape(run, params, KEY).shape == ()
