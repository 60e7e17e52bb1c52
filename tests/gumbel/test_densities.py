"""Log densities against the published formulas, quadrature and the samplers themselves.

Statistical tests reject at level 1e-4 each, on fixed keys, and are shown to have power.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from gumbel import densities, relaxations

LEVEL = 1e-4
NUM_DRAWS = 50_000
LOGITS = {2: np.array([0.8, -0.3]), 3: np.array([0.8, -0.3, 0.2])}
TEMPERATURES = [0.3, 1.0, 2.5]


def appendix_b(y, logits, temperature):
    """The formula of Jang, Gu, Poole 2017, appendix B, in float64."""
    pi, size = scipy.special.softmax(logits), len(logits)
    total = np.sum(pi / y**temperature, axis=-1)
    return (
        scipy.special.gamma(size)
        * temperature ** (size - 1)
        * total**-size
        * np.prod(pi / y ** (temperature + 1), axis=-1)
    )


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("size", [2, 3, 10])
def test_matches_the_formula_of_appendix_b(size, temperature):
    rng = np.random.default_rng(0)
    y = rng.dirichlet(np.ones(size), 100)
    logits = rng.normal(size=size)
    expected = np.log(appendix_b(y, logits, temperature))
    shifted = logits + 5.0  # logits need not be normalized
    log_prob = jax.jit(densities.gumbel_softmax_log_prob)(y, shifted, temperature)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-4, atol=1e-4)
    in_log_space = jax.jit(densities.exp_gumbel_softmax_log_prob)(np.log(y), logits, temperature)
    np.testing.assert_allclose(
        in_log_space, expected + np.log(y).sum(axis=-1), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_binary_concrete_is_the_case_of_two_classes(temperature):
    y, logit = np.linspace(0.01, 0.99, 99), 0.7
    expected = np.log(appendix_b(np.stack([y, 1 - y], -1), np.array([logit, 0.0]), temperature))
    log_prob = jax.jit(densities.binary_concrete_log_prob)(y, logit, temperature)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-4, atol=1e-4)
    log_odds = scipy.special.logit(y)
    exact = scipy.stats.logistic.logpdf(log_odds, logit / temperature, 1 / temperature)
    in_log_space = jax.jit(densities.logit_binary_concrete_log_prob)(log_odds, logit, temperature)
    np.testing.assert_allclose(in_log_space, exact, rtol=1e-4, atol=1e-4)


def log_ratio_grid(size, temperature, num_points):
    """A grid over the K - 1 log ratios `log(y_i / y_K)`: `log y` at its points, and its cell."""
    edge = 25 / temperature
    axis = (np.arange(num_points) + 0.5) / num_points * 2 * edge - edge
    ratios = np.stack(np.meshgrid(*[axis] * (size - 1), indexing="ij"), axis=-1)
    padded = np.concatenate([ratios, np.zeros((*ratios.shape[:-1], 1))], axis=-1)
    return scipy.special.log_softmax(padded, axis=-1), (2 * edge / num_points) ** (size - 1)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("size", [2, 3])
def test_integrates_to_one(size, temperature):
    # On the simplex dy_1 ... dy_{K-1} is y_1 ... y_K times the cell of the log ratios.
    log_y, cell = log_ratio_grid(size, temperature, 400)
    in_log_space = densities.exp_gumbel_softmax_log_prob(log_y, LOGITS[size], temperature)
    assert np.exp(in_log_space).sum() * cell == pytest.approx(1, abs=1e-4)
    inside = log_y.min(axis=-1) > -70  # where y itself is a float32
    log_prob = densities.gumbel_softmax_log_prob(np.exp(log_y), LOGITS[size], temperature)
    mass = np.exp(log_prob + log_y.sum(axis=-1)) * inside
    assert mass.sum() * cell == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.5])
def test_integrates_to_one_on_the_interval(temperature):
    density = jax.jit(lambda y: jnp.exp(densities.binary_concrete_log_prob(y, 0.7, temperature)))
    total, _ = scipy.integrate.quad(density, 0, 1, epsabs=1e-4, epsrel=1e-4)
    assert total == pytest.approx(1, abs=1e-3)


def cell_counts(log_y, edges):
    ratios = log_y[..., :-1] - log_y[..., -1:]
    cells = np.digitize(ratios, edges)
    return np.ravel_multi_index(np.moveaxis(cells, -1, 0), [len(edges) + 1] * ratios.shape[-1])


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("size", [2, 3])
def test_samples_follow_the_density(size, temperature):
    # Chi-square over a grid of cells of the simplex, cut along its log ratios.
    edges = np.array([-1.5, -0.5, 0.5, 1.5, 2.5]) / temperature
    num_cells = (len(edges) + 1) ** (size - 1)
    log_y, cell = log_ratio_grid(size, temperature, 500)
    log_prob = densities.exp_gumbel_softmax_log_prob(log_y, LOGITS[size], temperature)
    mass = np.exp(np.asarray(log_prob, np.float64)).ravel() * cell
    expected = np.bincount(cell_counts(log_y, edges).ravel(), mass, num_cells)
    expected /= expected.sum()

    def p_value(sampler):
        rows = jnp.tile(LOGITS[size], (NUM_DRAWS, 1))
        log_y = np.asarray(jax.jit(sampler)(jax.random.key(1), rows))
        counts = np.bincount(cell_counts(log_y, edges), minlength=num_cells)
        return scipy.stats.chisquare(counts, NUM_DRAWS * expected).pvalue

    def sample(key, logits, temperature=temperature):
        return jnp.log(relaxations.gumbel_softmax(key, logits, temperature) + 1e-37)

    def sample_warmer(key, logits):
        return sample(key, logits, 1.06 * temperature)

    assert p_value(sample) > LEVEL
    assert p_value(sample_warmer) < LEVEL


def test_log_space_form_is_exact_at_the_corners():
    # For a large log ratio u the density of two classes is tau exp(-tau u) pi_1 / pi_2.
    log_y = np.array([[0.0, -3000.0], [-3000.0, 0.0]])
    log_prob = densities.exp_gumbel_softmax_log_prob(log_y, LOGITS[2], 0.1)
    np.testing.assert_allclose(log_prob, np.log(0.1) - 300 + np.array([1.1, -1.1]), rtol=1e-6)
    log_prob = densities.logit_binary_concrete_log_prob(np.array([3000.0, -3000.0]), 1.1, 0.1)
    np.testing.assert_allclose(log_prob, np.log(0.1) - 300 + np.array([1.1, -1.1]), rtol=1e-6)


def test_clamped_entries_have_no_gradient():
    tiny, eps = jnp.finfo(jnp.float32).tiny, jnp.finfo(jnp.float32).eps
    log_prob = jax.jit(jax.value_and_grad(densities.gumbel_softmax_log_prob))
    value, gradient = log_prob(np.float32([1.0, 0.0, 1e-35]), np.zeros(3, np.float32), 0.5)
    assert gradient[0] != 0
    np.testing.assert_array_equal(gradient[1:], [0, 0])
    at_floor, _ = log_prob(np.float32([1.0, tiny / eps, tiny / eps]), np.zeros(3, np.float32), 0.5)
    np.testing.assert_allclose(value, at_floor, rtol=1e-6)


LOG_PROBS = [
    densities.gumbel_softmax_log_prob,
    densities.exp_gumbel_softmax_log_prob,
    densities.binary_concrete_log_prob,
    densities.logit_binary_concrete_log_prob,
]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("log_prob", LOG_PROBS)
def test_16_bit_inputs_are_taken_as_if_float32(log_prob, dtype):
    y, logits, temperature = (jnp.asarray(x, dtype) for x in ([0.25, 0.75], [1.0, -1.0], 0.5))
    wide = (np.asarray(x, np.float32) for x in (y, logits, temperature))
    value, expected = jax.jit(lambda *pair: [log_prob(*x) for x in pair])(
        (y, logits, temperature), tuple(wide)
    )
    assert value.dtype == jnp.float32
    np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
@pytest.mark.parametrize("log_prob", LOG_PROBS)
def test_bad_temperature_is_refused(log_prob, temperature):
    with pytest.raises(ValueError, match="temperature must be positive and finite"):
        log_prob(jnp.array([0.5, 0.5]), jnp.zeros(2), temperature)


def test_one_temperature_per_row():
    y, logits = np.float32([[0.2, 0.8], [0.6, 0.4]]), np.zeros(2, np.float32)
    temperatures = np.float32([[0.5], [2.0]])
    log_prob = jax.jit(densities.gumbel_softmax_log_prob)
    expected = [log_prob(y[i], logits, temperatures[i, 0]) for i in (0, 1)]
    np.testing.assert_allclose(log_prob(y, logits, temperatures), expected, rtol=1e-6)
    with pytest.raises(ValueError, match=r"shape \(2,\): give a scalar or one per row"):
        densities.gumbel_softmax_log_prob(y, logits, temperatures[:, 0])
