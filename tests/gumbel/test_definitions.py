"""What no z-test sees: an unbiased estimator stays unbiased whatever its baseline and scale are.

So these follow from the definitions in the papers, worked out by hand.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gumbel import BERNOULLI, check_objective, estimators

LOGIT = 0.4
COSTS = np.array([0.3, 2.0])  # of the values 0 and 1


def objective(params, batch, key, sample):
    z = sample("z", params + batch)[:, 0]
    return COSTS[0] + (COSTS[1] - COSTS[0]) * z**2  # curved, so that MuProp has a residual


def bound(costs):
    return -np.log(np.mean(np.exp(-np.asarray(costs))))


def vimco_by_hand(z, replace):
    """VIMCO's estimate of one variable's samples `z`, `replace` making a cost of the others."""
    costs = COSTS[z]
    estimate = 0.0
    for own in range(len(z)):
        replaced = costs.copy()
        replaced[own] = replace(np.delete(costs, own), costs)
        signal = bound(costs) - bound(replaced)
        estimate += signal * (z[own] - 1 / (1 + np.exp(-LOGIT)))
    return estimate


def test_vimco_leaves_one_sample_out_by_the_geometric_mean_of_the_other_weights():
    """At m = 3, where the arithmetic mean and one over m differ from it.

    The estimate depends on how many of the samples are 1 alone, so it has four values.
    """
    num_samples = 3
    estimator = estimators.make("vimco", BERNOULLI, num_samples=num_samples)
    batch, key = jnp.zeros((1, 1)), jax.random.key(0)

    @jax.jit
    @jax.vmap
    def estimates(key):
        state = estimator.init(objective, jnp.array([LOGIT]), batch, key)
        gradient = jax.grad(estimator.surrogate, argnums=1, has_aux=True)
        found, (_, info) = gradient(objective, jnp.array([LOGIT]), batch, key, 1.0, state)
        return found[0], info.cost[0]

    cases = np.tril(np.ones((num_samples + 1, num_samples), int), -1)  # 0 to 3 ones

    def expected(replace):
        return np.array([vimco_by_hand(case, replace) for case in cases])

    geometric = expected(lambda others, _: others.mean())
    found, costs = map(np.asarray, estimates(jax.random.split(key, 200)))
    bounds = [bound(COSTS[case]) for case in cases]
    assert np.abs(costs[:, None] - bounds).min(axis=1).max() < 1e-5
    nearest = np.abs(found[:, None] - geometric)
    assert nearest.min(axis=1).max() < 1e-5
    # Each comes up: all but the two of equal samples, which are both 0.
    assert set(nearest.argmin(axis=1)) == {0, 1, 2}
    # And this tells them from what is not VIMCO.
    for other in (lambda _, costs: costs.mean(), lambda others, _: bound(others)):
        assert np.abs(expected(other) - geometric).max() > 0.01


def test_rloo_has_the_other_samples_for_a_baseline():
    """Of two samples the estimate is half the difference of the costs if they differ, else 0."""
    estimator = estimators.make("rloo", BERNOULLI, num_samples=2)

    @jax.jit
    @jax.vmap
    def estimates(key):
        gradient = jax.grad(estimator.surrogate, argnums=1, has_aux=True)
        return gradient(objective, jnp.array([LOGIT]), jnp.zeros((1, 1)), key, 1.0, ())[0][0]

    found = np.asarray(estimates(jax.random.split(jax.random.key(0), 200)))
    values = np.array([0.0, (COSTS[1] - COSTS[0]) / 2])
    nearest = np.abs(found[:, None] - values)
    assert nearest.min(axis=1).max() < 1e-5
    assert set(nearest.argmin(axis=1)) == {0, 1}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sf", {}),
        ("nvil", {"baseline_learning_rate": 0.0}),
        ("muprop", {}),
        ("vimco", {}),
        ("rodeo", {}),
    ],
)
def test_averages_move_toward_the_batch_by_one_less_the_decay(name, options):
    """Of the mean, and of the variance of what is left of the signal."""
    params, batch = jnp.array([LOGIT]), jnp.linspace(-1, 1, 8)[:, None]

    def moved(decay, start):
        """The averages after one batch, from these of before."""
        estimator = estimators.make(name, BERNOULLI, decay=decay, **options)
        first = estimator.init(objective, params, batch, jax.random.key(0))
        arguments = (objective, params, batch, jax.random.key(1), 1.0)
        return estimator.surrogate(*arguments, with_averages(first, start))[1][0]

    states = jax.jit(lambda: [moved(0.75, 0.0), moved(0.75, 1.0), moved(0.0, 0.0)])()
    from_0, from_1, of_batch = map(averages, states)
    np.testing.assert_allclose(np.subtract(from_1, from_0), [0.75, 0.75], atol=1e-5)
    np.testing.assert_allclose(from_0, 0.25 * np.asarray(of_batch), rtol=1e-4)
    assert all(np.abs(from_0) > 1e-3)


def averages(state):
    signal = getattr(state, "signal", state)
    return [float(signal.mean), float(signal.variance)]


def with_averages(state, value):
    signal = getattr(state, "signal", state)
    moved = signal._replace(mean=jnp.asarray(value), variance=jnp.asarray(value))
    return state._replace(signal=moved) if hasattr(state, "signal") else moved


def test_nvil_s_sigma_is_that_of_the_residual():
    """With a baseline that knows the cost, and not with the cost itself, whose sigma is 10."""

    def by_input(params, batch, key, sample):
        return 20.0 * batch[:, 0] + sample("z", params + batch)[:, 0]

    batch = jnp.array([[0.0], [1.0], [0.0], [1.0]])
    estimator = estimators.make(
        "nvil", BERNOULLI, baseline_learning_rate=0.03, decay=0.9, variance_normalization=True
    )

    @jax.jit
    def variances():
        def step(state, key):
            _, (state, info) = estimator.surrogate(
                by_input, jnp.zeros((1, 1)), batch, key, 1.0, state
            )
            return state, (state.signal.variance, info.metrics["baseline_loss"])

        state = estimator.init(by_input, jnp.zeros((1, 1)), batch, jax.random.key(0))
        return jax.lax.scan(step, state, jax.random.split(jax.random.key(1), 300))[1]

    variance, loss = variances()
    assert np.mean(loss[:5]) > 50
    assert np.mean(loss[-50:]) < 2
    assert np.mean(variance[-50:]) < 2


def test_a_check_names_what_cannot_be_trained():
    def fixed(params, batch, key, sample):
        return sample("free", params + batch)[:, 0] + sample("fixed", batch)[:, 0]

    report = check_objective(fixed, jnp.zeros(1), jnp.zeros((2, 1)), jax.random.key(0), BERNOULLI)
    assert report.problems == ("the logits of site 'fixed' do not depend on the parameters",)


def test_the_decay_of_double_cv_is_that_of_both_averages():
    def moved(decay):
        estimator = estimators.make("double_cv", BERNOULLI, decay=decay)
        arguments = (objective, jnp.array([LOGIT]), jnp.linspace(-1, 1, 8)[:, None])
        zero = jax.tree.map(jnp.zeros_like, estimator.init(*arguments, jax.random.key(0)))
        return estimator.surrogate(*arguments, jax.random.key(1), 1.0, zero)[1][0]

    found, of_batch = jax.jit(lambda: (moved(0.75), moved(0.0)))()
    np.testing.assert_allclose(found, 0.25 * np.asarray(of_batch), rtol=1e-4)
    assert of_batch.square > 0


@pytest.mark.parametrize(
    ("name", "option"),
    [("nvil", "baseline_hidden"), ("relax", "residual_hidden"), ("rodeo", "control_hidden")],
)
def test_networks_are_as_wide_as_the_option_says(name, option):
    def shapes(size):
        estimator = estimators.make(name, BERNOULLI, **{option: size})
        arguments = (objective, jnp.array([LOGIT]), jnp.zeros((2, 1)), jax.random.key(0))
        leaves = jax.tree.leaves(jax.eval_shape(lambda: estimator.init(*arguments)))
        return {axis for leaf in leaves for axis in leaf.shape}

    assert 7 in shapes(7)
    assert 11 in shapes(11)
