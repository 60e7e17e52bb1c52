"""Noise given the sample that it makes, against rejection sampling.

Each test of a distribution has an error rate of `ERROR_RATE` over all that it compares.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from scipy import stats

import gumbel
from gumbel import BERNOULLI, CATEGORICAL
from gumbel.conditional import conditional_gumbel_noise, conditional_logistic_noise

ERROR_RATE = 1e-4
NUM_DRAWS = 20_000
LOGITS = {"bernoulli": np.float32(1.2), "categorical": np.array([1.0, -1.5, 0.3], np.float32)}
FAMILIES = [BERNOULLI, CATEGORICAL]


def drawn_first(fam, logits):
    """The noise, and the value that it makes: NumPy's own, no code of the library."""
    rng = np.random.default_rng(3)
    shape = (NUM_DRAWS, *np.shape(logits))
    if fam is BERNOULLI:
        noise = rng.logistic(size=shape)
        return noise, (logits + noise > 0).astype(np.float32)
    noise = rng.gumbel(size=shape)
    return noise, np.eye(3, dtype=np.float32)[np.argmax(logits + noise, axis=-1)]


def p_values(fam, draw):
    """Kolmogorov-Smirnov p-values of each noise given each value, against rejection sampling."""
    logits, draw = LOGITS[fam.name], jax.jit(draw)
    noise, z = drawn_first(fam, logits)
    found = []
    for value in [0.0, 1.0] if fam is BERNOULLI else np.eye(3):
        accepted = noise[(z == value).reshape(NUM_DRAWS, -1).all(axis=-1)]
        given = jnp.broadcast_to(jnp.asarray(value, jnp.float32), noise.shape)
        ours = draw(jax.random.key(1), jnp.broadcast_to(logits, noise.shape), given)
        for one, other in zip(
            np.reshape(ours, (NUM_DRAWS, -1)).T,
            accepted.reshape(len(accepted), -1).T,
            strict=True,
        ):
            found.append(stats.ks_2samp(one, other, method="asymp").pvalue)
    return np.asarray(found)


@pytest.mark.parametrize("fam", FAMILIES, ids=str)
def test_conditional_noise_is_that_of_rejection_sampling(fam):
    found = p_values(fam, fam.conditional_noise)
    assert found.min() > ERROR_RATE / len(found)


def independent_losers(key, logits, z):
    """The winner as it should be, and the others as if nothing were known of them."""
    return jnp.where(
        z > 0.5, conditional_gumbel_noise(key, logits, z), gumbel.gumbel_noise(key, logits.shape)
    )


def mirrored(key, logits, z):
    """The sign that the value needs, and the size of noise that knows of no logits."""
    size = jnp.abs(gumbel.logistic_noise(key, logits.shape))
    return jnp.where(z > 0.5, size, -size) - logits


@pytest.mark.parametrize(
    ("fam", "wrong"), [(CATEGORICAL, independent_losers), (BERNOULLI, mirrored)]
)
def test_the_comparison_tells_a_wrong_conditional(fam, wrong):
    found = p_values(fam, wrong)
    assert found.min() < ERROR_RATE / len(found)


@pytest.mark.parametrize("fam", FAMILIES, ids=str)
def test_the_noise_gives_back_its_sample_and_softens_to_what_relax_draws(fam):
    public = {
        "bernoulli": gumbel.conditional_binary_concrete,
        "categorical": gumbel.conditional_gumbel_softmax,
    }[fam.name]
    unconditional = {"bernoulli": gumbel.logistic_noise, "categorical": gumbel.gumbel_noise}

    @jax.jit
    def pairs(logits, z):
        key = jax.random.key(4)
        noise = fam.conditional_noise(key, logits, z)
        free = unconditional[fam.name](key, logits.shape)
        return (
            (jnp.round(fam.soften(logits, noise, 0.001)), z),
            (public(key, logits, z, 0.7), fam.soften(logits, noise, 0.7)),
            (fam.relax(key, logits, 0.7), fam.soften(logits, free, 0.7)),
        )

    logits = 3 * np.random.default_rng(2).normal(size=(50, 4, 3)).astype(np.float32)
    z = jax.jit(fam.sample)(jax.random.key(3), logits)
    for one, other in pairs(logits, z):
        np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize("fam", FAMILIES, ids=str)
def test_the_noise_moves_with_the_logits_as_the_race_says(fam):
    """`du_k = -exp(w_k - w_z) dlog p_k`, where `w = logits + u` and `z` is the winner."""
    rng = np.random.default_rng(6)
    logits, direction = rng.normal(size=(2, 5, 3)).astype(np.float32)

    @jax.jit
    def slopes(logits, direction):
        z = fam.sample(jax.random.key(7), logits)
        draw = partial(fam.conditional_noise, jax.random.key(9), z=z)
        return z, *jax.jvp(draw, (logits,), (direction,))

    z, noise, slope = map(np.asarray, slopes(logits, direction))
    if fam is BERNOULLI:  # the difference of the two Gumbel variables of logits (l, 0)
        p = scipy.special.expit(logits)
        log_p_slopes = np.stack([(1 - p) * direction, -p * direction])
        own, other = np.where(z == 1, log_p_slopes, log_p_slopes[::-1])
        expected = (2 * z - 1) * (np.exp(-np.abs(logits + noise)) * other - own)
    else:
        p = scipy.special.softmax(logits, axis=-1)
        log_p_slope = direction - np.sum(p * direction, axis=-1, keepdims=True)
        lead = logits + noise - np.max(logits + noise, axis=-1, keepdims=True)
        expected = -np.exp(lead) * log_p_slope
    np.testing.assert_allclose(slope, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("fam", FAMILIES, ids=str)
def test_extreme_logits_have_finite_noise_and_slopes(fam):
    logits = {
        "categorical": [[1e4, -1e4, 0.0], [-np.inf, 0.0, -1e9], [0.0, 0.0, 0.0]],
        "bernoulli": [1e4, -1e4, np.inf, -np.inf, 1e9, 0.0],
    }[fam.name]

    @jax.jit
    def results(logits):
        possible = logits > -1e8 if fam is CATEGORICAL else True
        z = fam.sample(jax.random.key(0), logits)
        draw = partial(fam.conditional_noise, jax.random.key(1), z=z)
        noise, pullback = jax.vjp(draw, logits)
        slope = pullback(jnp.where(possible, jnp.ones_like(noise), 0))
        # A masked variable has logits of 0 and no value: its noise does not matter, but exists.
        masked = fam.conditional_noise(jax.random.key(0), 0 * z, 0 * z)
        return noise, slope, fam.soften(logits, noise, 0.1), masked

    for dtype in (jnp.float32, jnp.bfloat16):
        found = results(jnp.asarray(logits, dtype))
        assert found[0].dtype == jnp.float32
        for value in jax.tree.leaves(found):
            assert np.isfinite(np.asarray(value, np.float32)).all()


def test_a_value_that_does_not_fit_is_refused():
    with pytest.raises(
        ValueError, match=r"z of shape \(2,\) does not fit logits of shape \(2, 3\)"
    ):
        conditional_gumbel_noise(jax.random.key(0), jnp.zeros((2, 3)), jnp.zeros(2))
    with pytest.raises(ValueError, match="does not fit"):
        conditional_logistic_noise(jax.random.key(0), jnp.zeros(3), jnp.zeros(2))
    with pytest.raises(TypeError, match="must be a PRNG key"):
        conditional_logistic_noise(jnp.zeros(3), jnp.zeros(3), jnp.zeros(3))
