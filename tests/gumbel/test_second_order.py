"""Second derivatives: those of the unbiased estimators against enumeration, the others refused."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from gumbel import BERNOULLI, estimators, exact, samplers
from gumbel.estimators.derivatives import magic_box
from tests.gumbel.nets import FAMILIES, Net, two_layer
from tests.gumbel.test_estimators import critical_z, initial_state, largest_z, multi_sample
from tests.gumbel.walks import walk

pytestmark = pytest.mark.usefixtures("full_precision")

# Tens of thousands of Hessian-vector products for each estimator; one of them is always tested.
slow = pytest.mark.slow

KEY = jax.random.key(1)
NUM_ESTIMATES = 20_000
ALL = [name for name in estimators.names() if estimators.spec(name).derivatives == "all"]
FIRST = [name for name in estimators.names() if estimators.spec(name).derivatives == "first"]


def directions(net):
    """The flat parameters' unraveling, and two directions to take products with."""
    flat, unravel = jax.flatten_util.ravel_pytree(net.params)
    return flat, unravel, jax.random.normal(jax.random.key(5), flat.shape)


def hessian_vector_products(net: Net, estimator, num_estimates=NUM_ESTIMATES):
    """The mean and the standard error of `H v`, flat."""
    state = initial_state(net, estimator)
    flat, unravel, direction = directions(net)

    def value(flat, key):
        args = (net.objective, unravel(flat), net.batch, key, 0.7, state)
        return estimator.surrogate(*args)[0]

    @jax.jit
    def moments(keys):
        def one(key):
            return jax.jvp(lambda x: jax.grad(value)(x, key), (flat,), (direction,))[1]

        values = jax.lax.map(one, keys, batch_size=2000)
        return values.mean(axis=0), values.std(axis=0) / jnp.sqrt(num_estimates)

    keys = jax.random.split(jax.random.key(2), num_estimates)
    return [np.asarray(moment, np.float64) for moment in moments(keys)]


def exact_product(net: Net):
    flat, unravel, direction = directions(net)

    def value(flat):
        arguments = (net.objective, unravel(flat), net.batch, KEY, net.family)
        return jnp.mean(exact.expected_cost(*arguments))

    product = jax.jit(lambda x: jax.jvp(jax.grad(value), (x,), (direction,))[1])(flat)
    return np.asarray(product, np.float64)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        pytest.param(name, family, id=f"{name}-{family.name}", marks=[] if quick else slow)
        for name in ALL
        if name != "vimco"
        for family in FAMILIES
        for quick in [(name, family) == ("sf", BERNOULLI)]
    ],
)
def test_hessian_vector_products_match_enumeration(name, family):
    net = two_layer(family)
    expected = exact_product(net)
    count = 2 if name == "marginalization" else NUM_ESTIMATES
    found = hessian_vector_products(net, estimators.make(name, family), count)
    assert largest_z(*found, expected) < critical_z(len(expected))


@slow
def test_vimco_products_match_enumeration_of_its_bound():
    net = two_layer(BERNOULLI, batch_size=1)
    expected = exact_product(multi_sample(net, 3))
    found = hessian_vector_products(net, estimators.make("vimco", BERNOULLI, num_samples=3))
    assert largest_z(*found, expected) < critical_z(len(expected))


@slow
@pytest.mark.parametrize("options", [{"centering": True}, {"expansion": "mean_field"}])
def test_options_of_muprop_leave_them_unbiased(options):
    net = two_layer(BERNOULLI)
    expected = exact_product(net)
    found = hessian_vector_products(net, estimators.make("muprop", BERNOULLI, **options))
    assert largest_z(*found, expected) < critical_z(len(expected))


def test_the_test_tells_a_surrogate_that_is_right_to_first_order_only():
    """The score function as it is often written, `cost + stop_gradient(cost) log q`."""
    net = two_layer(BERNOULLI)
    estimator = estimators.make("sf", BERNOULLI)

    def first_order(objective, params, batch, key, temperature, state):
        drawn = samplers.trace(objective, params, batch, key, BERNOULLI, samplers.hard_draw)
        score = jax.lax.stop_gradient(drawn.cost) * drawn.log_prob()
        return jnp.mean(drawn.cost + score), (state, None)

    expected = exact_product(net)
    found = hessian_vector_products(net, estimator._replace(surrogate=first_order))
    assert largest_z(*found, expected) > 10


@pytest.mark.parametrize("name", walk(FIRST, quick={"st"}))
def test_estimators_without_a_second_derivative_refuse_it(name):
    net = two_layer(BERNOULLI)
    estimator = estimators.make(name, BERNOULLI)
    state = initial_state(net, estimator)

    def value(params):
        return estimator.surrogate(net.objective, params, net.batch, KEY, 0.7, state)[0]

    jax.eval_shape(jax.grad(value), net.params)
    with pytest.raises(ValueError, match=f"'{name}' estimates a first derivative only"):
        jax.eval_shape(jax.hessian(value), net.params)
    with pytest.raises(ValueError, match="first derivative only"):
        jax.eval_shape(jax.grad(lambda p: jax.grad(value)(p)["w1"].sum()), net.params)


def test_an_estimator_of_a_user_refuses_a_second_derivative_by_itself():
    net = two_layer(BERNOULLI)
    estimators.register("mine", unbiased=True)(estimators.sf)
    try:
        mine = estimators.make("mine", BERNOULLI)
    finally:
        estimators.unregister("mine")
    with pytest.raises(ValueError, match="'mine' estimates a first derivative only"):
        hessian_vector_products(net, mine, num_estimates=1)


@slow
def test_relaxed_second_derivatives_are_those_of_the_relaxed_cost():
    net = two_layer(BERNOULLI)
    estimator = estimators.make("gumbel_softmax", BERNOULLI)
    flat, unravel, direction = directions(net)

    def value(flat):
        return estimator.surrogate(net.objective, unravel(flat), net.batch, KEY, 1.0, ())[0]

    found = jax.jvp(jax.grad(value), (flat,), (direction,))[1]
    step = 1e-3
    gradients = [jax.grad(value)(flat + sign * step * direction) for sign in (1, -1)]
    np.testing.assert_allclose(
        found, (gradients[0] - gradients[1]) / (2 * step), rtol=0.02, atol=0.02
    )


def test_derivatives_of_the_magic_box():
    function = lambda x: magic_box(x**2)  # noqa: E731
    reference = lambda x: jnp.exp(x**2 - 0.49)  # noqa: E731
    for _ in range(4):
        assert float(function(0.7)) == pytest.approx(float(reference(0.7)), rel=1e-5)
        function, reference = jax.grad(function), jax.grad(reference)
    assert float(magic_box(-jnp.inf)) == 1.0
