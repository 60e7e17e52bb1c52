"""Sites in loops: every estimator and sampler against the same net unrolled."""

from functools import cache, partial

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from gumbel import BERNOULLI, CATEGORICAL, estimators, samplers
from tests.gumbel.nets import FAMILIES, Net, exact_value_and_gradient
from tests.gumbel.test_estimators import critical_z, estimates, is_accepted, largest_z, make
from tests.gumbel.walks import SINGLE_SAMPLE_UNBIASED, walk

KEY = jax.random.key(3)
every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


@cache
def recurrent(family, *, num_steps, unrolled=False, batch_size=2) -> Net:
    """A state machine of one variable a step, whose logits depend on the state and the input."""
    width = 1 if family is BERNOULLI else 3
    event = (1,) if family is BERNOULLI else (1, 3)
    keys = jax.random.split(jax.random.key(11), 4)
    params = {
        "in": jax.random.normal(keys[0], (2, width)),
        "back": jax.random.normal(keys[1], (width, width)),
        "out": 2.0 * jax.random.normal(keys[2], (width,)),
    }
    batch = jax.random.normal(keys[3], (batch_size, num_steps, 2))

    def objective(params, batch, key, sample):
        batch = jnp.swapaxes(batch, 0, 1)

        def step(state, x, site):
            hidden, cost = state
            logits = (x @ params["in"] + hidden @ params["back"]).reshape(-1, *event)
            z = sample(site, logits).reshape(-1, width)
            return (z, cost + jnp.sin(2 * (z @ params["out"]) + x[:, 0]))

        state = (jnp.zeros((batch_size, width)), jnp.zeros(batch_size))
        if unrolled:
            for index in range(num_steps):
                state = step(state, batch[index], f"z{index}")
        else:
            state, _ = sample.scan(lambda s, x: (step(s, x, "z"), None), state, batch)
        return state[1]

    return Net(family, objective, params, batch)


@every_family
def test_enumeration_of_a_loop_is_that_of_the_unrolled_net(family):
    steps = 5
    value, gradient = exact_value_and_gradient(recurrent(family, num_steps=steps))
    unrolled_value, unrolled = exact_value_and_gradient(
        recurrent(family, num_steps=steps, unrolled=True)
    )
    assert value == pytest.approx(unrolled_value, rel=1e-5)
    np.testing.assert_allclose(gradient, unrolled, rtol=1e-4, atol=1e-5)


# Categorical loops are among the objectives of `test_objectives`.
@pytest.mark.parametrize(
    "family",
    [BERNOULLI, pytest.param(CATEGORICAL, marks=pytest.mark.slow)],
    ids=lambda family: family.name,
)
@pytest.mark.parametrize(
    "name", walk(name for name in SINGLE_SAMPLE_UNBIASED if name != "marginalization")
)
def test_unbiased_estimators_match_enumeration_of_the_unrolled_net(name, family):
    net = recurrent(family, num_steps=5)
    _, expected = exact_value_and_gradient(recurrent(family, num_steps=5, unrolled=True))
    found = estimates(net, make(name, family))
    assert largest_z(*found, expected) < critical_z(len(expected))


@every_family
@pytest.mark.parametrize("name", walk(["st", "gumbel_softmax", "darn"], quick=["gumbel_softmax"]))
def test_biased_estimators_have_the_mean_that_they_have_in_the_unrolled_net(name, family):
    estimator = estimators.make(name, family)
    mean, error = estimates(recurrent(family, num_steps=5), estimator)
    other, other_error = estimates(recurrent(family, num_steps=5, unrolled=True), estimator)
    assert largest_z(mean, np.hypot(error, other_error), other) < critical_z(len(mean))
    _, expected = exact_value_and_gradient(recurrent(family, num_steps=5))
    assert largest_z(mean, error, expected) > critical_z(len(mean))


@pytest.mark.slow
@every_family
def test_vimco_in_a_loop_has_the_mean_that_it_has_in_the_unrolled_net(family):
    estimator = estimators.make("vimco", family, num_samples=3)
    mean, error = estimates(recurrent(family, num_steps=5), estimator)
    other, other_error = estimates(recurrent(family, num_steps=5, unrolled=True), estimator)
    assert largest_z(mean, np.hypot(error, other_error), other) < critical_z(len(mean))


def random_walk(params, batch, key, sample):
    """The squared end of a walk of unit steps."""

    def body(height, _):
        z = sample("step", params + 0 * batch)
        return height + (2 * z[:, 0] - 1), None

    return sample.scan(body, jnp.zeros(batch.shape[0]), length=50)[0] ** 2


@pytest.mark.parametrize("name", ["st", "sf", "muprop", "nvil", "darn"])
def test_every_step_draws_for_itself(name):
    """The mean square of a walk is its number of steps; of one draw, repeated, 2,500."""
    batch = jnp.zeros((2000, 1))
    estimator = estimators.make(name, BERNOULLI)

    @jax.jit
    def costs():
        state = estimator.init(random_walk, jnp.zeros(1), batch, KEY)
        return estimator.surrogate(random_walk, jnp.zeros(1), batch, KEY, 1.0, state)[1][1].cost

    assert np.mean(costs()) == pytest.approx(50, abs=5 * 50 * np.sqrt(2 / 2000))


@pytest.mark.parametrize("name", walk(n for n in estimators.names() if n != "unordered_set"))
def test_a_loop_may_have_no_step(name):
    def objective(params, batch, key, sample):
        last, _ = sample.scan(lambda z, _: (sample("z", params + z), None), batch, length=0)
        return ((params - last) ** 2)[:, 0]

    params, batch = jnp.full((2, 1), 3.0), jnp.ones((2, 1))
    estimator = estimators.make(name, BERNOULLI)
    state = estimator.init(objective, params, batch, KEY)
    step = jax.value_and_grad(estimator.surrogate, argnums=1, has_aux=True)
    step = jax.jit(step, static_argnums=0)
    (value, _), gradient = step(objective, params, batch, KEY, 1.0, state)
    assert value == 4
    np.testing.assert_allclose(gradient, np.full((2, 1), 2.0))


def test_unordered_set_has_no_distinct_values_in_a_loop_without_steps():
    estimator = estimators.make("unordered_set", BERNOULLI)

    def objective(params, batch, key, sample):
        sample.scan(lambda z, _: (sample("z", params + z), None), batch, length=0)
        return jnp.zeros(2)

    with pytest.raises(ValueError, match="first site, 'z', has 1: lower num_samples"):
        estimator.init(objective, jnp.zeros((2, 1)), jnp.ones((2, 1)), KEY)


def test_hard_sampler_and_its_records_in_nested_loops():
    """A site in two loops is one site with two further axes of variables, [B, T1, T2, ...]."""

    def objective(params, batch, key, sample):
        def inner(total, shift):
            z = sample("z", batch + shift)
            return total + z.sum((-2, -1)), z

        def outer(total, shifts):
            return sample.scan(inner, total, shifts)

        total, z = sample.scan(outer, jnp.zeros(4), jnp.zeros((3, 2)))
        first = sample("after", batch)
        return total + first.sum((-2, -1)), z

    batch = jnp.zeros((4, 5, 6))
    drawn = samplers.trace(objective, None, batch, KEY, CATEGORICAL, samplers.hard_draw)
    record = drawn.records["z"]
    assert record.z.shape == (4, 3, 2, 5, 6)
    assert list(drawn.records) == ["z", "after"]
    assert drawn.records["after"].layer > record.layer
    # aux holds the same values, stacked by the loops: [T1, T2, B, ...].
    np.testing.assert_array_equal(np.moveaxis(np.asarray(drawn.aux), 2, 0), record.z)
    # All 6 steps and 4 examples differ.
    assert len(np.unique(np.asarray(record.z).reshape(24, -1), axis=0)) == 24
    sample = samplers.hard(KEY, CATEGORICAL)
    cost, _ = objective(None, batch, KEY, sample)
    np.testing.assert_allclose(cost, 35.0)


def test_enumeration_and_muprop_go_through_nested_loops():
    def objective(params, batch, key, sample):
        def inner(state, x):
            z = sample("z", params["w"] * (x + state)[:, None])[:, 0]
            return state + z, None

        def outer(state, xs):
            gate = sample("gate", params["v"] * state[:, None])[:, 0]
            state, _ = sample.scan(inner, 0.5 * state + gate, xs)
            return state, None

        state, _ = sample.scan(outer, jnp.zeros(2), batch)
        return jnp.cos(state)

    params = {"w": jnp.array(0.7), "v": jnp.array(-0.4)}
    batch = jax.random.normal(KEY, (2, 2, 2))  # [T1, T2, B]
    net = Net(BERNOULLI, objective, params, batch)
    assert is_accepted(net, estimators.make("muprop", BERNOULLI))
    assert is_accepted(net, estimators.make("sf", BERNOULLI))


def test_observed_values_are_those_of_each_step():
    values = jax.random.bernoulli(KEY, 0.5, (3, 4, 2, 5)).astype(jnp.float32)  # [B, T1, T2, D]

    def objective(params, batch, key, sample):
        def inner(_, x):
            return None, sample("z", jnp.zeros((3, 5)) + x)

        def outer(_, xs):
            return sample.scan(inner, None, xs)

        _, z = sample.scan(outer, None, jnp.zeros((4, 2)))
        return sample("w", jnp.zeros((3, 1)))[:, 0], z

    observed = samplers.condition(objective, {"z": values})
    _, z = observed(None, None, KEY, samplers.hard(KEY, BERNOULLI))
    np.testing.assert_array_equal(jnp.moveaxis(z, 2, 0), values)


@pytest.mark.parametrize("length", [3, 7])
def test_observed_values_of_a_loop_are_as_many_as_its_steps(length):
    """JAX would repeat the last one, or drop some."""

    def objective(params, batch, key, sample):
        def step(_, x):
            return None, sample("z", jnp.zeros(2))

        return sample.scan(step, None, length=5)[1].sum((0, 1))

    observed = samplers.condition(objective, {"z": jnp.ones((2, length))})
    message = rf"has shape \(2, {length}\), but its logits have \(2, 5\)"
    with pytest.raises(ValueError, match=message):
        observed(None, None, KEY, samplers.hard(KEY, BERNOULLI))


@pytest.mark.parametrize("name", ["sf", "muprop", "st"])
def test_an_observed_site_of_a_mixed_loop_has_its_listed_family(name):
    """The checks of `init` replay the loop. No call names a family, so they have to know it."""

    def objective(params, batch, key, sample):
        def body(cost, x):
            label = sample("label", params["label"] + x[:, None, None])
            gate = sample("gate", params["gate"] + label[:, 0, :1])
            pick = sample("pick", params["pick"] + gate[:, :, None])
            return cost + (gate[:, 0] + pick[:, 0, 2] - label[:, 0, 1]) ** 2, None

        return sample.scan(body, jnp.zeros(2), batch)[0]

    params = {"label": jnp.zeros((1, 3)), "gate": jnp.zeros(1), "pick": jnp.zeros((1, 3))}
    batch = jnp.ones((4, 2))
    labels = jax.nn.one_hot(jnp.arange(8).reshape(2, 4, 1) % 3, 3)
    families = {"label": "categorical", "gate": "bernoulli", "pick": "categorical"}
    estimator = estimators.make(name, families)
    observed = samplers.condition(objective, {"label": labels})
    state = estimator.init(observed, params, batch, KEY)
    step = jax.grad(estimator.surrogate, argnums=1, has_aux=True)
    gradient, _ = jax.jit(step, static_argnums=0)(observed, params, batch, KEY, 1.0, state)
    assert np.all(gradient["label"] == 0)
    assert np.all(gradient["gate"] != 0)


@every_family
def test_observed_values_of_a_step_without_a_batch_axis(family):
    width = () if family is BERNOULLI else (3,)
    values = jax.nn.one_hot(jnp.array([1, 2, 1]), 3) if width else jnp.array([0.0, 1.0, 1.0])

    def objective(params, batch, key, sample):
        def step(_, x):
            return None, sample("z", jnp.zeros(width))

        return jnp.zeros(()), sample.scan(step, None, length=3)[1]

    observed = samplers.condition(objective, {"z": values})
    _, z = observed(None, None, KEY, samplers.hard(KEY, family))
    np.testing.assert_array_equal(z, values)
    again = samplers.condition(observed, {})
    np.testing.assert_array_equal(again(None, None, KEY, samplers.hard(KEY, family))[1], values)


@every_family
def test_nested_loops_of_steps_without_a_batch_axis_keep_their_order(family):
    width = () if family is BERNOULLI else (4,)

    def objective(params, batch, key, sample):
        def inner(_, x):
            return None, sample("z", jnp.full(width, x))

        def outer(_, xs):
            return sample.scan(inner, None, xs)

        return jnp.zeros(()), sample.scan(outer, None, jnp.arange(6.0).reshape(2, 3))[1]

    drawn = samplers.trace(objective, None, None, KEY, family, samplers.hard_draw)
    assert drawn.records["z"].logits.shape == (2, 3, *width)
    np.testing.assert_array_equal(drawn.records["z"].z, drawn.aux)
    observed = samplers.condition(objective, {"z": drawn.aux})
    _, z = observed(None, None, KEY, samplers.hard(jax.random.key(1), family))
    np.testing.assert_array_equal(z, drawn.aux)


def test_a_loop_may_run_backward_and_needs_a_length():
    def objective(params, batch, key, sample):
        def body(total, x):
            return total + x * sample("z", batch)[:, 0], x

        total, seen = sample.scan(body, jnp.zeros(3), jnp.arange(4.0), reverse=True, unroll=2)
        return total, seen

    logits = jnp.full((3, 1), 1e4)
    drawn = samplers.trace(objective, None, logits, KEY, BERNOULLI, samplers.hard_draw)
    np.testing.assert_array_equal(drawn.cost, 6.0)
    np.testing.assert_array_equal(drawn.aux, jnp.arange(4.0))
    with pytest.raises(ValueError, match="needs xs, or length="):
        samplers.hard(KEY, BERNOULLI).scan(lambda c, x: (c, x), 0.0)


@pytest.mark.parametrize("name", ["gumbel_softmax", "sf", "muprop"])
def test_a_program_does_not_grow_with_the_number_of_steps(name):
    """And so neither does the time to compile it."""
    estimator = estimators.make(name, CATEGORICAL)

    def size(num_steps):
        net = recurrent(CATEGORICAL, num_steps=num_steps)
        init = partial(estimator.init, net.objective, net.params, net.batch)
        state = jax.eval_shape(init, KEY)
        gradient = jax.grad(estimator.surrogate, argnums=1, has_aux=True)
        arguments = (net.params, net.batch, KEY, 1.0, state)
        traced = jax.jit(gradient, static_argnums=0).trace(net.objective, *arguments)
        return len(traced.lower().as_text().splitlines())

    assert size(100) == size(5)
