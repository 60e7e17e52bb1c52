"""REBAR and RELAX: unbiased whatever their coefficients, which learn to lower the variance.

That they are unbiased as they start, in stacks, loops and with masks, is tested for all unbiased
estimators together. The error rate of each z-test is that of `tests.gumbel.test_estimators`.
"""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from gumbel import BERNOULLI, CATEGORICAL, estimators, exact
from gumbel.estimators import relaxed_control
from gumbel.estimators.control import learner, squared_estimate
from gumbel.sites import as_families
from tests.gumbel.nets import Net, toy, two_layer
from tests.gumbel.test_estimators import critical_z, is_accepted

pytestmark = pytest.mark.usefixtures("full_precision")

KEY = jax.random.key(1)
TEMPERATURE = 0.7
both = pytest.mark.parametrize("name", ["rebar", "relax"])
slow = pytest.mark.slow


def started(net: Net, estimator):
    return jax.jit(lambda p: estimator.init(net.objective, p, net.batch, KEY))(net.params)


@pytest.mark.parametrize("name", [pytest.param("rebar", marks=slow), "relax"])
def test_coefficients_learn_on_the_toys_and_the_estimate_stays_unbiased(name):
    """REBAR's and RELAX's own toys, at logit 0: 1,000 estimates a step, of a copy each.

    There the relaxed cost is low where the sample's is high, so that REBAR can but learn to leave
    it out, while RELAX's network learns what a sample costs.
    """
    copies, steps, held_out = 1000, 300, 20
    estimator = estimators.make(name, BERNOULLI, control_learning_rate=0.03)

    @jax.jit
    def learn(target):
        def step(state, key):
            gradient, (state, info) = jax.grad(estimator.surrogate, argnums=1, has_aux=True)(
                net.objective, jnp.zeros((copies, 1)), net.batch, key, TEMPERATURE, state
            )
            return state, (copies * gradient, info.metrics)

        net = toy(target, num_copies=copies)
        state = estimator.init(net.objective, jnp.zeros((copies, 1)), net.batch, KEY)
        keys = jax.random.split(jax.random.key(2), steps + held_out)
        learned, (before, _) = jax.lax.scan(step, state, keys[:steps])
        measured = jax.lax.map(lambda key: step(learned, key)[1], keys[steps:])
        return before[0], *measured

    for target in (0.45, 0.499):
        before, found, metrics = learn(target)
        found = np.asarray(found, np.float64).ravel()
        exact = 0.25 * (1 - 2 * target)
        error = found.std() / np.sqrt(found.size) + 1e-7
        assert abs(found.mean() - exact) / error < critical_z(1)
        score_function = ((target**2 + (1 - target) ** 2) / 4) ** 2  # the variance of sf
        if name == "rebar":
            assert found.var() < 0.9 * np.asarray(before).var()
            assert found.var() < 1.05 * score_function
        else:
            assert found.var() < 0.05 * score_function
        assert abs(metrics["eta"][0] - 1) > 0.1
        assert metrics["temperature_factor"][0] != 1


class WithoutSlopes(relaxed_control.RelaxedControl):
    """The control variate with its second half forgotten."""

    def score(self, coefficients, logits, passes, temperature, drawn, keys):
        passes = {
            layer: own._replace(slopes=jax.tree.map(jnp.zeros_like, own.slopes))
            for layer, own in passes.items()
        }
        return super().score(coefficients, logits, passes, temperature, drawn, keys)


class OwnCoefficients(relaxed_control.RelaxedControl):
    """A coefficient that depends on the samples that it is multiplied with."""

    def score(self, coefficients, logits, passes, temperature, drawn, keys):
        eta = {site: jnp.mean(record.z) for site, record in drawn.records.items()}
        own = coefficients | {"eta": eta}
        return super().score(own, logits, passes, temperature, drawn, keys)


@pytest.mark.parametrize("wrong", [WithoutSlopes, OwnCoefficients])
def test_the_z_test_has_the_power_to_catch_a_wrong_control_variate(wrong):
    control = wrong(learner("adam", 0.0), 1.0, learn_temperature=False)
    net = two_layer(BERNOULLI, batch_size=1)
    assert not is_accepted(net, relaxed_control.estimator(as_families(BERNOULLI), control))


@pytest.mark.parametrize("name", ["rebar", pytest.param("relax", marks=slow)])
def test_coefficients_at_0_leave_the_score_function(name):
    net = two_layer(CATEGORICAL)
    options = {"eta": 0.0, "control_learning_rate": 0.0}

    @jax.jit
    def of_each(params):
        found = []
        for each, chosen in (("sf", {}), (name, options)):
            estimator = estimators.make(each, CATEGORICAL, **chosen)
            state = estimator.init(net.objective, params, net.batch, KEY)
            surrogate = jax.grad(estimator.surrogate, argnums=1, has_aux=True)
            arguments = (net.objective, params, net.batch, KEY, TEMPERATURE, state)
            found.append(surrogate(*arguments))
        return found

    found = of_each(net.params)
    expected, gradient = (jax.flatten_util.ravel_pytree(each)[0] for each, _ in found)
    state = found[-1][1][0]
    assert float(state.coefficients["eta"]["h1"]) == 0.0  # a rate of 0 keeps it
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["rebar", pytest.param("relax", marks=slow)])
def test_coefficients_and_temperature_follow_the_gradient_of_the_squared_estimate(name):
    """With SGD the step is the gradient itself: held against finite differences of the metric."""
    net = two_layer(BERNOULLI)
    estimator = estimators.make(name, BERNOULLI, control_optimizer="sgd", control_learning_rate=1.0)
    state = started(net, estimator)
    if name == "relax":  # off its start, where the first layer gets no gradient
        network = state.coefficients["residual"]["h1"]
        network["w2"] = 0.3 * jax.random.normal(KEY, network["w2"].shape)

    @jax.jit
    def squared(coefficients, temperature):
        arguments = (net.objective, net.params, net.batch, KEY, temperature)
        _, (after, info) = estimator.surrogate(
            *arguments, state._replace(coefficients=coefficients)
        )
        return info.metrics["squared_estimate"], after.coefficients

    before, unravel = jax.flatten_util.ravel_pytree(state.coefficients)
    _, after = squared(state.coefficients, TEMPERATURE)
    step = before - jax.flatten_util.ravel_pytree(after)[0]
    width = 1e-2
    direction = jax.random.normal(jax.random.key(6), before.shape)
    for kind in state.coefficients:
        chosen = {
            key: jax.tree.map(lambda leaf, on=key == kind: leaf * on, part)
            for key, part in unravel(direction).items()
        }
        along = jax.flatten_util.ravel_pytree(chosen)[0]
        ends = [squared(unravel(before + s * width * along), TEMPERATURE)[0] for s in (1, -1)]
        expected = float(ends[0] - ends[1]) / (2 * width)
        assert float(step @ along) == pytest.approx(expected, rel=0.02, abs=1e-3), kind
        assert expected != 0

    gradient = jax.jit(jax.grad(estimator.surrogate, argnums=4, has_aux=True), static_argnums=0)
    slope, _ = gradient(net.objective, net.params, net.batch, KEY, TEMPERATURE, state)
    ends = [squared(state.coefficients, TEMPERATURE + s * width)[0] for s in (1, -1)]
    assert float(slope) == pytest.approx(float(ends[0] - ends[1]) / (2 * width), rel=0.02)


@pytest.mark.parametrize("name", ["rebar", pytest.param("relax", marks=slow)])
def test_options_of_the_learned_coefficients(name):
    """RMSProp's first step is `rate * sign(gradient) / sqrt(0.1)`; without learning, no factor."""
    net = two_layer(BERNOULLI)

    def two_steps(**options):
        """The initial `eta`, that after a step, and the temperature's factor in the second step."""
        estimator = estimators.make(name, BERNOULLI, control_learning_rate=1e-3, **options)
        first = started(net, estimator)
        step = jax.jit(estimator.surrogate, static_argnums=0)
        arguments = (net.objective, net.params, net.batch, KEY, TEMPERATURE)
        _, (second, _) = step(*arguments, first)
        _, (_, info) = step(*arguments, second)
        etas = [jnp.stack(jax.tree.leaves(s.coefficients["eta"])) for s in (first, second)]
        return *etas, float(info.metrics["temperature_factor"])

    before, after, factor = two_steps(control_optimizer="rmsprop")
    np.testing.assert_allclose(jnp.abs(after - before), 1e-3 / np.sqrt(0.1), rtol=1e-2)
    assert factor != 1.0
    assert two_steps(learn_temperature=False)[-1] == 1.0


def test_the_squared_estimate_is_that_of_the_gradient_in_the_logits():
    def objective(params, batch, key, sample):
        z = sample("z", params)
        return jnp.sin(z @ jnp.array([1.0, 2.0, -1.0]))

    estimator = estimators.make("rebar", BERNOULLI)
    params = jax.random.normal(KEY, (4, 3))

    @jax.jit
    def gradient_and_info(params):
        state = estimator.init(objective, params, None, KEY)
        surrogate = jax.grad(estimator.surrogate, argnums=1, has_aux=True)
        return surrogate(objective, params, None, KEY, TEMPERATURE, state)

    gradient, (_, info) = gradient_and_info(params)
    expected = jnp.sum(jnp.square(4 * gradient)) / 4
    assert float(info.metrics["squared_estimate"]) == pytest.approx(float(expected), rel=1e-4)


def test_a_step_that_is_not_finite_leaves_the_coefficients_as_they_are():
    fitted = learner("adam", 0.1)
    state = fitted.init({"a": 1.0, "b": jnp.ones(2)})
    after = fitted.step(state, {"a": jnp.asarray(jnp.inf), "b": jnp.array([jnp.nan, 1.0])})
    assert float(after.coefficients["a"]) == 1.0
    np.testing.assert_allclose(after.coefficients["b"], [1.0, 0.9], rtol=1e-5)


def test_squared_estimate_takes_sixteen_bit_logits():
    score = lambda a, logits: jnp.sum(a * jnp.square(logits["z"]))  # noqa: E731
    logits = {"z": jnp.array([100.0, 200.0], jnp.float16)}
    found = squared_estimate(score, jnp.asarray(3.0), logits, 2)
    assert float(found) == pytest.approx((600.0**2 + 1200.0**2) / 2)


@both
def test_a_cost_that_jumps_is_refused_with_the_way_out(name):
    def objective(params, batch, key, sample):
        first = sample("first", params)
        second = sample("second", params + first)
        return jnp.sum(jnp.where(second > 0.5, 3.0, 1.0), axis=-1)

    estimator = estimators.make(name, BERNOULLI)
    with pytest.raises(ValueError, match=f"'second', through which the gradient of {name!r} flows"):
        estimator.init(objective, jnp.zeros((3, 2)), None, KEY)

    def flat_at_0(params, batch, key, sample):  # but with a derivative at 1
        return jax.nn.relu(sample("z", params)[:, 0] - 0.5)

    assert estimator.init(flat_at_0, jnp.full((3, 1), -20.0), None, KEY)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rebar", {"control_optimizer": "adamw"}, "control_optimizer must be one of 'adam', "),
        ("relax", {"residual_hidden": 0}, "residual_hidden must be an integer >= 1, got 0"),
        ("relax", {"control_learning_rate": -1.0}, "control_learning_rate must be a finite number"),
    ],
)
def test_options_out_of_range_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        estimators.make(name, BERNOULLI, **options)


def test_temperatures_that_are_not_positive_are_refused():
    net = toy(0.45)
    estimator = estimators.make("rebar", BERNOULLI)
    with pytest.raises(ValueError, match="temperature must be positive and finite, got 0"):
        estimator.surrogate(net.objective, net.params, net.batch, KEY, 0.0, started(net, estimator))


@both
def test_a_mask_that_samples_set_leaves_the_noise_of_what_it_masks_alone(name):
    """An episode that ends: noise given the 0 of what is masked would tell the first site's sample.

    A z-test of two coordinates at an error rate of 1e-4; given the 0, |z| is 41.
    """

    def objective(params, batch, key, sample):
        going = 1 - sample("stop", params[0] + batch)
        acted = sample("act", params[1] + batch, where=going > 0)
        return jnp.square(going * acted - 0.3 * going + 0.2)

    params, batch = jnp.array([0.3, -0.4]), jnp.zeros(2)
    estimator = estimators.make(name, BERNOULLI)
    gradient = jax.grad(estimator.surrogate, argnums=1, has_aux=True)

    @jax.jit
    def run(params, keys):
        state = estimator.init(objective, params, batch, KEY)
        _, expected = exact.value_and_grad(objective, params, batch, KEY, BERNOULLI)
        one = lambda key: gradient(objective, params, batch, key, 0.5, state)[0]  # noqa: E731
        return jax.vmap(one)(keys), expected

    estimates, expected = run(params, jax.random.split(KEY, 40_000))
    error = estimates.std(axis=0) / len(estimates) ** 0.5
    assert jnp.max(abs(estimates.mean(axis=0) - expected) / error) < critical_z(2)


@both
def test_a_cost_with_an_infinite_slope_where_relaxed_values_underflow(name):
    """At this temperature nearly all of them do, to 0 or 1."""
    estimator, num_draws = estimators.make(name, BERNOULLI), 1000

    def objective(params, batch, key, sample):
        z = sample("z", params + batch)
        return jnp.sqrt(z).sum(-1) + jnp.sqrt(1 - z).sum(-1) * z[:, 0]

    @jax.jit
    def draws(params):
        def estimate(key):
            found = jax.grad(estimator.surrogate, argnums=(1, 4), has_aux=True)
            return found(objective, params, jnp.zeros((1, 1)), key, 0.05, state)[0]

        state = estimator.init(objective, params, jnp.zeros((1, 1)), KEY)
        return jax.vmap(estimate)(jax.random.split(KEY, num_draws))

    params = jnp.array([0.5, 4.0])
    _, expected = exact.value_and_grad(objective, params, jnp.zeros((1, 1)), KEY, BERNOULLI)
    found, by_temperature = draws(params)
    assert np.isfinite(found).all()
    assert np.isfinite(by_temperature).all()
    error = np.std(found, axis=0) / np.sqrt(num_draws)
    assert np.all(np.abs(np.mean(found, axis=0) - expected) < critical_z(2) * error)
