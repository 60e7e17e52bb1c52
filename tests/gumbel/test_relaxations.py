"""Relaxed and hard samples against their exact distributions, limits and gradients.

Statistical tests reject at level 1e-4 each, on fixed keys. Beside each stands a sampler that is
wrong by a little and is rejected by the same test, which shows the test's power.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from gumbel import relaxations

LEVEL = 1e-4
NUM_DRAWS = 100_000
LOGITS = np.array([0.5, -1.0, 1.5, 0.0, -2.5], np.float32)
DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]
RELAXERS = [
    relaxations.gumbel_softmax,
    relaxations.exp_gumbel_softmax,
    relaxations.binary_concrete,
    relaxations.logit_binary_concrete,
]


def draw(sampler, logits, num_draws=NUM_DRAWS, seed=0):
    """`num_draws` independent samples, one for each row of repeated logits."""
    rows = jnp.broadcast_to(jnp.asarray(logits), (num_draws, *np.shape(logits)))
    return np.asarray(jax.jit(sampler)(jax.random.key(seed), rows))


def categorical_p_value(one_hot, logits):
    counts = one_hot.sum(axis=0)
    expected = counts.sum() * scipy.special.softmax(np.asarray(logits, np.float64))
    return scipy.stats.chisquare(counts, expected).pvalue


def is_one_hot(z):
    return np.isin(z, [0.0, 1.0]).all() and (z.sum(axis=-1) == 1).all()


@pytest.mark.parametrize("noise", [relaxations.gumbel_noise, relaxations.logistic_noise])
@pytest.mark.parametrize("dtype", DTYPES)
def test_noise_is_finite_and_has_its_tail_in_every_dtype(noise, dtype):
    draws = noise(jax.random.key(1), (1 << 21,), dtype)
    assert draws.dtype == dtype
    draws = np.asarray(draws, np.float32)
    assert np.isfinite(draws).all()
    # The exact chance that none of them exceeds 11 is exp(-35); drawn in 16 bits none could.
    assert draws.max() > 11


HARD_SAMPLERS = {
    "gumbel_max": relaxations.gumbel_max,
    "gumbel_softmax": lambda key, x: relaxations.gumbel_softmax(key, x, 0.7, hard=True),
}


@pytest.mark.parametrize("name", HARD_SAMPLERS)
def test_hard_samples_follow_the_softmax(name):
    z = draw(HARD_SAMPLERS[name], LOGITS)
    assert is_one_hot(z)
    assert categorical_p_value(z, LOGITS) > LEVEL


def test_hard_sample_test_has_power():
    def too_little_noise(key, logits):
        noise = 0.95 * relaxations.gumbel_noise(key, logits.shape)
        return jax.nn.one_hot(jnp.argmax(logits + noise, axis=-1), logits.shape[-1])

    assert categorical_p_value(draw(too_little_noise, LOGITS), LOGITS) < LEVEL


@pytest.mark.parametrize("shift", [-1e4, 1e4])
def test_gumbel_max_ignores_a_shift_of_large_logits(shift):
    # The shifted logits are exact in float32, so the samples must be the very same.
    z = draw(relaxations.gumbel_max, LOGITS)
    shifted = draw(relaxations.gumbel_max, LOGITS + np.float32(shift))
    np.testing.assert_array_equal(shifted, z)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0, 3.0])
def test_binary_concrete_distribution(temperature):
    logit = 0.8
    exact = scipy.stats.logistic(loc=logit / temperature, scale=1 / temperature).cdf

    def sampler(key, x):
        return relaxations.logit_binary_concrete(key, x, temperature)

    draws = draw(sampler, logit)
    assert scipy.stats.kstest(draws, exact).pvalue > LEVEL
    assert scipy.stats.kstest(1.03 * draws, exact).pvalue < LEVEL


@pytest.mark.parametrize("temperature", [0.1, 10.0])
def test_log_space_samplers_give_the_same_sample(temperature):
    def sampler(key, x):
        return jnp.stack([relax(key, x, temperature) for relax in RELAXERS])

    y, log_y, z, logit_z = draw(sampler, LOGITS, 100).astype(np.float64)
    np.testing.assert_allclose(np.exp(log_y), y, rtol=1e-4, atol=1e-37)
    np.testing.assert_allclose(scipy.special.expit(logit_z), z, rtol=1e-4, atol=1e-37)


def test_low_temperature_limit_is_the_categorical():
    y = draw(lambda key, x: relaxations.gumbel_softmax(key, x, 1e-4), LOGITS)
    assert (y.max(axis=-1) > 0.99).mean() > 0.999
    assert categorical_p_value(np.eye(len(LOGITS))[y.argmax(axis=-1)], LOGITS) > LEVEL
    z = draw(lambda key, x: relaxations.binary_concrete(key, x, 1e-4), 0.8)
    assert ((z < 0.01) | (z > 0.99)).mean() > 0.999
    ones = (z > 0.5).sum()
    assert scipy.stats.binomtest(int(ones), NUM_DRAWS, 1 / (1 + np.exp(-0.8))).pvalue > LEVEL


def test_high_temperature_limit_is_uniform():
    y, _, z, _ = draw(
        lambda key, x: jnp.stack([relax(key, x, 1e5) for relax in RELAXERS]), LOGITS, 1000
    )
    np.testing.assert_allclose(y, 1 / len(LOGITS), atol=1e-4)
    np.testing.assert_allclose(z, 0.5, atol=1e-4)


@pytest.mark.parametrize(
    ("relax", "dtype"),
    [(relaxations.gumbel_softmax, jnp.bfloat16), (relaxations.binary_concrete, jnp.float32)],
)
def test_hard_value_is_exact_and_its_gradient_is_the_soft_one(relax, dtype):
    rng, key = np.random.default_rng(4), jax.random.key(4)
    logits = jnp.asarray(rng.normal(scale=3, size=(200, 10)), dtype)
    weights = jnp.asarray(rng.normal(size=(200, 10)), dtype)

    @jax.jit
    def run(logits):
        soft, soft_vjp = jax.vjp(lambda x: relax(key, x, 0.3), logits)
        hard, hard_vjp = jax.vjp(lambda x: relax(key, x, 0.3, hard=True), logits)
        return soft, hard, soft_vjp(weights)[0], hard_vjp(weights)[0]

    soft, hard, soft_gradient, hard_gradient = run(logits)
    assert hard.dtype == soft.dtype == dtype
    soft, hard, soft_gradient, hard_gradient = (
        np.asarray(array, np.float32) for array in (soft, hard, soft_gradient, hard_gradient)
    )
    assert np.isin(hard, [0.0, 1.0]).all()
    if relax is relaxations.gumbel_softmax:
        assert is_one_hot(hard)
        np.testing.assert_array_equal((hard * soft).sum(axis=-1), soft.max(axis=-1))
    else:
        assert np.all(np.where(hard == 1, soft >= 0.5, soft <= 0.5))
    assert np.any(soft_gradient != 0)
    np.testing.assert_array_equal(hard_gradient, soft_gradient)


@pytest.mark.parametrize("dtype", DTYPES)
def test_straight_through_takes_value_and_gradient_apart(dtype):
    soft = jnp.asarray(np.linspace(-300, 300, 1001), dtype)
    hard = jnp.asarray(np.round(np.linspace(-40, 40, 1001)), dtype)
    weights = jnp.asarray(np.arange(1001), dtype)

    @jax.jit
    def run(hard, soft):
        value, vjp = jax.vjp(relaxations.straight_through, hard, soft)
        return value, *vjp(weights)

    value, to_hard, to_soft = run(hard, soft)
    np.testing.assert_array_equal(value, hard)
    np.testing.assert_array_equal(to_hard, np.zeros(1001))
    np.testing.assert_array_equal(to_soft, weights)


def test_straight_through_refuses_arrays_that_differ():
    message = r"hard float32\[2\] and soft float32\[3\]: give both one shape and dtype"
    with pytest.raises(ValueError, match=message):
        relaxations.straight_through(jnp.zeros(2), jnp.zeros(3))
    with pytest.raises(ValueError, match=r"soft bfloat16\[2\]"):
        relaxations.straight_through(jnp.zeros(2), jnp.zeros(2, jnp.bfloat16))


def test_gradients_in_logits_and_temperature():
    # y = softmax(x / tau): dy_i = y_i (dx_i - sum_j y_j dx_j) / tau, and tau acts as dx = -x / tau.
    key, temperature = jax.random.key(5), 0.7
    weights = np.array([1.0, -2.0, 0.5, 3.0, 0.0])

    def weighted(logits, temperature):
        y = relaxations.gumbel_softmax(key, logits, temperature)
        return jnp.dot(weights, y), y

    gradient = jax.jit(jax.grad(weighted, argnums=(0, 1), has_aux=True))
    (to_logits, to_temperature), y = gradient(LOGITS, temperature)
    y = np.asarray(y, np.float64)
    expected = y * (weights - y @ weights) / temperature
    np.testing.assert_allclose(to_logits, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(to_temperature, -expected @ np.log(y), rtol=1e-4)

    def one(logit, temperature):
        return relaxations.binary_concrete(key, logit, temperature)

    z, (to_logit, to_temperature) = jax.jit(jax.value_and_grad(one, argnums=(0, 1)))(
        0.8, temperature
    )
    slope = z * (1 - z) / temperature
    np.testing.assert_allclose(to_logit, slope, rtol=1e-4)
    np.testing.assert_allclose(to_temperature, -slope * scipy.special.logit(z), rtol=1e-4)


def test_temperature_gradient_survives_large_logits():
    # A common shift of the logits changes nothing, so it must not cost the gradient its digits.
    key = jax.random.key(12)

    def first(temperature, shift):
        return relaxations.gumbel_softmax(key, LOGITS + shift, temperature)[0]

    gradient = jax.jit(jax.grad(first))
    near, far = (gradient(0.05, np.float32(shift)) for shift in (0, 8192))
    assert abs(near) > 1e-6
    np.testing.assert_allclose(far, near, rtol=1e-3)


def test_one_temperature_per_row():
    logits, temperatures = np.tile(LOGITS, (2, 1)), np.array([[0.1], [10.0]], np.float32)
    relax = jax.jit(lambda temperature: RELAXERS[0](jax.random.key(7), logits, temperature))
    y = relax(temperatures)
    for row in range(2):
        np.testing.assert_allclose(y[row], relax(temperatures[row])[row], rtol=1e-6)


@pytest.mark.parametrize("relax", RELAXERS)
def test_a_temperature_that_would_share_noise_between_rows_is_refused(relax):
    with pytest.raises(ValueError, match=r"temperature of shape \(3, 1\) does not broadcast"):
        relax(jax.random.key(0), jnp.zeros(3), jnp.ones((3, 1)))


@pytest.mark.parametrize("relax", RELAXERS[:2])
def test_a_temperature_per_class_is_refused(relax):
    with pytest.raises(ValueError, match=r"shape \(3,\): give a scalar or one per row"):
        relax(jax.random.key(0), jnp.zeros((3, 3)), jnp.ones(3))


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf"), jnp.array([1.0, 0.0])])
@pytest.mark.parametrize("relax", RELAXERS)
def test_bad_temperature_is_refused(relax, bad):
    message = r"^temperature must be positive and finite, got [^\n]+: use [^\n]+$"
    key, logits = jax.random.key(0), jnp.zeros((3, 2))
    with pytest.raises(ValueError, match=message):
        relax(key, logits, bad)
    # A temperature that is not traced is known while its surroundings are.
    with pytest.raises(ValueError, match="temperature must be positive"):
        jax.jit(lambda x: relax(key, x, bad))(logits)


@pytest.mark.parametrize("relax", RELAXERS)
def test_traced_temperature_passes(relax):
    def first(temperature):
        return relax(jax.random.key(0), jnp.zeros((3, 2)), temperature)[0, 0]

    temperatures = np.array([0.5, 2.0], np.float32)
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(first)))(temperatures)
    np.testing.assert_allclose(values[1], jax.jit(lambda: first(2.0))(), rtol=1e-6)
    assert np.all(np.isfinite(gradients) & (np.asarray(gradients) != 0))


@pytest.mark.parametrize(
    "sampler",
    [relaxations.gumbel_max, *(lambda k, x, f=relax: f(k, x, 1.0) for relax in RELAXERS)],
)
def test_integer_logits_are_refused(sampler):
    with pytest.raises(TypeError, match="logits must be floating-point, got int32"):
        sampler(jax.random.key(0), jnp.zeros((3, 2), int))


def test_no_gradient_through_gumbel_max():
    gradient = jax.jit(jax.grad(lambda x: relaxations.gumbel_max(jax.random.key(0), x)[0]))
    np.testing.assert_array_equal(gradient(LOGITS), np.zeros_like(LOGITS))
