"""Noise against its distribution, down to the tails that decide among a million rare values.

Statistical tests reject at level 1e-4 each, on fixed keys, and are shown to have power.
"""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from gumbel import noise
from tests.compiling import optimized_jit

pytestmark = pytest.mark.usefixtures("optimized")

LEVEL = 1e-4
NUM_DRAWS = 1_000_000
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


def independence_p_value(cells, distance):
    """Chi-square of pairs of entries this far apart, each in one of 16 cells."""
    pairs = np.bincount(16 * cells[:-distance] + cells[distance:], minlength=256)
    return scipy.stats.chisquare(pairs).pvalue


@DRAWS
def test_entries_that_share_words_are_independent(draw):
    # Entry i shares a pair of words with entry i + n/4, in each half.
    draws = np.asarray(draw(jax.random.key(1), (NUM_DRAWS,)), np.float64)
    cells = np.minimum(16 * DISTRIBUTIONS[draw].cdf(draws), 15).astype(int)
    quarter = NUM_DRAWS // 4
    for distance in (1, quarter, 2 * quarter):
        assert independence_p_value(cells, distance) > LEVEL
        copied = cells.copy()
        copied[distance::20] = cells[:-distance:20]  # one pair in 20
        assert independence_p_value(copied, distance) < LEVEL


def of_words(draw, words, size):
    """What noise is made of given words: of `size` first ones, and of their partners.

    They come from a kind of keys of our own, whose `split` gives them.

    Args:
      draw: the noise.
      words: a function of `size` random words, to the first ones and their partners.
      size: even.
    """

    def split(data, shape):
        bits = jax.random.bits(jax.random.wrap_key_data(data, impl="threefry2x32"), shape)
        return jnp.stack(words(bits), axis=-1)

    def unused(*_):
        raise NotImplementedError

    implementation = jax.extend.random.define_prng_impl(
        key_shape=(2,),
        seed=lambda seed: jnp.stack([jnp.zeros((), jnp.uint32), seed.astype(jnp.uint32)]),
        split=split,
        random_bits=unused,
        fold_in=unused,
    )
    draws = draw(jax.random.key(2, impl=implementation), (2 * size,)).reshape(2, 2, size // 2)
    return draws[:, 0].ravel(), draws[:, 1].ravel()


def test_a_race_sees_a_probability_of_1e_12():
    # P(E_tail < p E_head) is p. Given that the tail's word is in the lowest cell of 2^-31 it is
    # 2^31 p, that is 0.2%: 8,600 hits, whose standard error is 1.1%. Each takes the other's word
    # as its partner, so that this is the worst case of sharing too.
    size, probability = 4_000_000, 1e-12
    expected = 2.0**31 * probability

    def hits(words):
        tail, head = of_words(noise.exponential, words, size)
        return int(jnp.sum(tail < probability * head))

    found = hits(lambda bits: (jnp.zeros_like(bits), bits))
    assert scipy.stats.binomtest(found, size, expected).pvalue > LEVEL
    # Without the partner's last 16 bits all that is left of the tail is its own word.
    coarse = hits(lambda bits: (jnp.zeros_like(bits), bits & np.uint32(0xFFFF0000)))
    assert scipy.stats.binomtest(coarse, size, expected).pvalue < LEVEL


def test_small_uniform_numbers_come_as_often_as_they_should():
    # P(logistic > logit) and P(exponential < p) rest on the same numbers.
    size, num_batches = 2_000_000, 10
    p = np.array([1e-6, 1e-4, 1e-2])

    @optimized_jit
    def count(key):
        u, e, x, y = (draw(key, (size,))[:, None] for draw in DISTRIBUTIONS)
        rare = (u < p, e < -np.log1p(-p), x > -np.log(-np.log1p(-p)), y < np.log(p / (1 - p)))
        return jnp.stack([jnp.sum(event, axis=0) for event in rare])

    hits = sum(np.asarray(count(jax.random.key(3 + i))) for i in range(num_batches))
    for numbers in hits:
        for number, probability in zip(numbers, p, strict=True):
            test = scipy.stats.binomtest(int(number), num_batches * size, probability)
            assert test.pvalue > LEVEL
            wrong = scipy.stats.binomtest(int(3 * number), num_batches * size, probability)
            assert wrong.pvalue < LEVEL


def test_extreme_words_give_finite_noise():
    extremes = jnp.array([0, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1], jnp.uint32)
    pairs = jnp.stack(jnp.meshgrid(extremes, extremes)).reshape(2, -1)
    pairs = jnp.concatenate([pairs, pairs[:, :1]], axis=1)  # 26, an even number

    def noise_of(draw):
        drawn = of_words(draw, lambda bits: pairs.reshape(2, *bits.shape), pairs.shape[1])
        return np.concatenate(drawn)

    u, e, x, y = map(noise_of, DISTRIBUTIONS)
    assert np.all((u > 0) & (u <= 1))
    assert np.all((e > 2.0**-49) & (e < 17))
    assert np.all((x > -2.9) & (x < 34))
    assert np.all(np.abs(y) < 34)


def test_both_tails_of_logistic_noise_are_alike():
    def tail(highest_bit):
        def words(bits):
            small = jnp.arange(1000, dtype=jnp.uint32).reshape(bits.shape)
            return small + np.uint32(highest_bit), bits

        return of_words(noise.logistic_noise, words, 1000)[0]

    lower, upper = tail(0), tail(2**31)
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
    exact = DISTRIBUTIONS[draw]
    assert scipy.stats.kstest(draws, exact.cdf).pvalue > LEVEL
    assert scipy.stats.kstest(1.05 * draws, exact.cdf).pvalue < LEVEL
    # And a quarter that is a copy of another one shows.
    cells = np.minimum(16 * exact.cdf(draws), 15).astype(int)
    assert independence_p_value(cells, 25_000) > LEVEL
    cells[25_000:50_000] = cells[:25_000]
    assert independence_p_value(cells, 25_000) < LEVEL


@DRAWS
def test_raw_keys_and_vmapped_keys_draw_the_same(draw):
    keys = jax.random.split(jax.random.key(8), 3)
    shape = (5, 7)
    together = jax.jit(jax.vmap(lambda key: draw(key, shape)))(keys)
    apart = [draw(jax.random.key_data(key), shape) for key in keys]
    np.testing.assert_allclose(together, np.stack(apart), rtol=1e-6)
    assert len(np.unique(together)) == 3 * 35


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        *((shape, jnp.float32) for shape in [(), (1,), (3,), (0,), (2, 0, 3), (5, 1, 3)]),
        *((shape, dtype) for shape in [(), (5, 1, 3)] for dtype in (jnp.bfloat16, jnp.float16)),
    ],
)
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


def test_noise_is_compiled_once_for_a_shape(caplog):
    key, other = jax.random.split(jax.random.key(11))
    with jax.log_compiles():
        noise.gumbel_noise(key, (123,))
        assert "XLA compilation" in caplog.text
        caplog.clear()
        noise.gumbel_noise(other, (123,))
        assert "XLA compilation" not in caplog.text
