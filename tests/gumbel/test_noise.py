"""Noise against its distribution, down to the tails that decide among a million rare values.

Statistical tests reject at level 1e-4 each, on fixed keys, and are shown to have power.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from gumbel import noise

LEVEL = 1e-4
NUM_DRAWS = 1_000_000
F32 = np.dtype(np.float32)
DISTRIBUTIONS = {
    noise.uniform: scipy.stats.uniform,
    noise.exponential: scipy.stats.expon,
    noise.gumbel_noise: scipy.stats.gumbel_r,
    noise.logistic_noise: scipy.stats.logistic,
}
DRAWS = pytest.mark.parametrize("draw", DISTRIBUTIONS, ids=lambda draw: draw.__name__)


@DRAWS
def test_distribution(draw):
    draws = np.asarray(draw(jax.random.key(0), (NUM_DRAWS,)), np.float64)
    exact = DISTRIBUTIONS[draw]
    assert scipy.stats.kstest(draws, exact.cdf).pvalue > LEVEL
    assert scipy.stats.kstest(1.01 * draws, exact.cdf).pvalue < LEVEL


@DRAWS
def test_entries_that_share_words_are_independent(draw):
    # Entry i shares a pair of words with entry i + n/4, in each half.
    draws = np.asarray(draw(jax.random.key(1), (NUM_DRAWS,)), np.float64)
    cells = np.minimum(16 * DISTRIBUTIONS[draw].cdf(draws), 15).astype(int)
    quarter = NUM_DRAWS // 4
    for distance in (1, quarter, 2 * quarter):
        pairs = np.bincount(16 * cells[:-distance] + cells[distance:], minlength=256)
        assert scipy.stats.chisquare(pairs).pvalue > LEVEL


def tail_hits(transform, scale, size):
    """How often a value in the lowest cell of the words loses to `scale` times an ordinary one.

    Each takes the other's word as its partner, so that this is the worst case of sharing too.
    """
    words = jax.random.bits(jax.random.key(2), (size,))
    lowest = jnp.zeros_like(words)
    in_tail = transform(lowest, words, F32)
    return int(jnp.sum(in_tail < scale * transform(words, lowest, F32)))


def test_a_race_sees_a_probability_of_1e_12():
    # P(E_tail < p E_head) is p. Given that the tail's word is in the lowest cell of 2^-31 it is
    # 2^31 p, that is 0.2 %: 21,000 hits, whose standard error is 0.7 %.
    size, probability = 10_000_000, 1e-12
    expected = 2.0**31 * probability
    exponential = jax.jit(noise._exponential, static_argnums=2)
    hits = tail_hits(exponential, probability, size)
    assert scipy.stats.binomtest(hits, size, expected).pvalue > LEVEL

    def by_its_word_alone(word, _partner, dtype):
        return noise._exponential(word, jnp.zeros_like(word), dtype)

    hits = tail_hits(by_its_word_alone, probability, size)
    assert scipy.stats.binomtest(hits, size, expected).pvalue < LEVEL


@pytest.mark.parametrize("probability", [1e-6, 1e-4, 1e-2])
def test_small_uniform_numbers_come_as_often_as_they_should(probability):
    # P(logistic > logit) and P(exponential < p) rest on the same numbers.
    size, num_batches = 2_000_000, 10

    @jax.jit
    def count(key):
        u, e, x = (draw(key, (size,)) for draw in list(DISTRIBUTIONS)[:3])
        logit = np.log(probability / (1 - probability))
        tail = noise.logistic_noise(key, (size,)) < logit
        rare_gumbel = -np.log(-np.log1p(-probability))
        rare = (u < probability, e < -np.log1p(-probability), x > rare_gumbel, tail)
        return jnp.stack([jnp.sum(event) for event in rare])

    hits = sum(np.asarray(count(jax.random.key(3 + i))) for i in range(num_batches))
    for number in hits:
        assert scipy.stats.binomtest(int(number), num_batches * size, probability).pvalue > LEVEL
    wrong = scipy.stats.binomtest(int(3 * hits[0]), num_batches * size, probability)
    assert wrong.pvalue < LEVEL


@pytest.mark.parametrize("word", [0, 2**31 - 1, 2**31, 2**32 - 1])
@pytest.mark.parametrize("partner", [0, 2**16 - 1, 2**32 - 1])
def test_extreme_words_give_finite_noise(word, partner):
    word, partner = (jnp.full(1, value, jnp.uint32) for value in (word, partner))
    [u], [e], [x], [y] = (
        transform(word, partner, F32)
        for transform in (noise._uniform, noise._exponential, noise._gumbel, noise._logistic)
    )
    assert 0 < u <= 1
    assert 2.0**-49 < e < 17
    assert -2.9 < x < 34
    assert abs(y) < 34


def test_both_tails_of_logistic_noise_are_alike():
    words = jnp.arange(1000, dtype=jnp.uint32)
    partner = jax.random.bits(jax.random.key(4), (1000,))
    lower = noise._logistic(words, partner, F32)
    upper = noise._logistic(words + np.uint32(2**31), partner, F32)
    np.testing.assert_array_equal(upper, -lower)
    # The tail of words below 1000 is the one of probability 1000 * 2^-32.
    assert float(lower.max()) == pytest.approx(np.log(1000 / 2.0**32), abs=2e-3)


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_words_are_those_of_split(size):
    key = jax.random.key(5)
    data, counter = jax.random.key_data(key), jnp.arange(size, dtype=jnp.uint32)
    first, second = noise.threefry(data[0], data[1], jnp.zeros_like(counter), counter)
    expected = jax.random.key_data(jax.random.split(key, size))
    np.testing.assert_array_equal(np.stack([first, second], axis=-1), expected)


def test_no_word_is_used_twice():
    drawn = np.asarray(noise.words(jax.random.key(6), (4001,)))
    expected = jax.random.key_data(jax.random.split(jax.random.key(6), 2002))
    assert np.isin(drawn, expected).all()
    assert len(np.unique(drawn)) == 4001


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
@DRAWS
def test_other_kinds_of_keys(impl, draw):
    draws = np.asarray(draw(jax.random.key(7, impl=impl), (100_000,)), np.float64)
    assert scipy.stats.kstest(draws, DISTRIBUTIONS[draw].cdf).pvalue > LEVEL


@DRAWS
def test_raw_keys_and_vmapped_keys_draw_the_same(draw):
    keys = jax.random.split(jax.random.key(8), 3)
    shape = (5, 7)
    together = jax.jit(jax.vmap(lambda key: draw(key, shape)))(keys)
    apart = [draw(jax.random.key_data(key), shape) for key in keys]
    np.testing.assert_allclose(together, np.stack(apart), rtol=1e-6)
    assert len(np.unique(together)) == 3 * 35


@pytest.mark.parametrize("shape", [(), (1,), (3,), (0,), (2, 0, 3), (5, 1, 3)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@DRAWS
def test_shapes_and_dtypes(draw, shape, dtype):
    draws = draw(jax.random.key(9), shape, dtype)
    assert (draws.shape, draws.dtype) == (shape, dtype)
    assert np.isfinite(np.asarray(draws, np.float32)).all()


@DRAWS
def test_float64_noise_has_digits_of_float64(draw):
    with jax.enable_x64(True):
        draws = draw(jax.random.key(10), (NUM_DRAWS,), jnp.float64)
        assert draws.dtype == jnp.float64
        draws = np.asarray(draws)
    assert scipy.stats.kstest(draws, DISTRIBUTIONS[draw].cdf).pvalue > LEVEL
    assert len(np.unique(draws)) == NUM_DRAWS  # in float32 some would meet


@DRAWS
def test_what_is_not_one_key_is_refused(draw):
    with pytest.raises(TypeError, match=r"must be a PRNG key, .* got float32\[3\]: the order"):
        draw(jnp.zeros(3), (3,))
    with pytest.raises(TypeError, match=r"one PRNG key, got an array of shape \(3,\): use jax"):
        draw(jax.random.split(jax.random.key(0), 3), (3,))


def test_noise_is_compiled_once_for_a_shape():
    draw = partial(noise.gumbel_noise, jax.random.key(11), (123,))
    before = noise._draw._cache_size()
    draw(), draw()
    assert noise._draw._cache_size() == before + 1
