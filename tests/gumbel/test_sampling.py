"""Discrete samples: exactly one value each, and the mass of rare values right within 1%.

Where each random word can be counted the mass is counted; else statistical tests reject at level
1e-4, on fixed keys, and are shown to have power.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from gumbel import relaxations, sampling
from gumbel.families import BERNOULLI, CATEGORICAL
from tests.compiling import optimized_jit

pytestmark = pytest.mark.usefixtures("optimized")

LEVEL = 1e-4
TAIL = 1e-6


def two_levels(size, tail, *, last):
    """Logits of one common value and `size - 1` rare ones, which share the mass `tail`."""
    rare = np.full(size - 1, np.log(tail / (size - 1)))
    head = np.log1p(-tail)
    return np.float32(np.append(head, rare) if last else np.append(rare, head))


def patch_words(monkeypatch, words):
    monkeypatch.setattr(sampling, "words", lambda key, shape: jnp.asarray(words).reshape(shape))


@pytest.mark.parametrize("size", [2, 3, 10, 24])
@pytest.mark.parametrize("last", [False, True])
def test_a_tail_of_1e_6_has_its_share_of_the_words(monkeypatch, size, last):
    # The tail stands at one end of the CDF, so the words that hit it are the first or the last.
    words = np.arange(8 * round(TAIL * 2**32), dtype=np.uint32)
    patch_words(monkeypatch, ~words if last else words)
    logits = np.tile(two_levels(size, TAIL, last=last), (len(words), 1))
    z = np.asarray(CATEGORICAL.sample(jax.random.key(0), logits))
    assert (z.sum(axis=-1) == 1).all()
    mass = (1 - z[:, 0 if last else -1]).sum() / 2.0**32
    assert mass == pytest.approx(TAIL, rel=0.01)


def old_sample(key, logits):
    """An inverse CDF with probabilities in multiples of 2^-23, as a float32 uniform suggests."""
    counts = jnp.round(jax.nn.softmax(logits) * 2.0**23)
    cdf = jnp.cumsum(counts, axis=-1)
    threshold = jax.random.uniform(key, (*logits.shape[:-1], 1)) * cdf[..., -1:]
    return (cdf > threshold) & (cdf - counts <= threshold)


def set_p_value(sampler, logits, sets, num_draws, batch=50):
    """Chi-square of how often a draw falls in each set of values."""
    keys = jax.random.split(jax.random.key(1), num_draws)

    @optimized_jit
    def draw(keys):
        return jax.lax.map(lambda key: jnp.argmax(sampler(key, logits)), keys, batch_size=batch)

    probability = scipy.special.softmax(np.asarray(logits, np.float64))
    mass = np.bincount(sets, probability)
    counts = np.bincount(sets[np.asarray(draw(keys))], minlength=len(mass))
    return scipy.stats.chisquare(counts, num_draws * mass).pvalue


def zipf(size):
    return np.float32(-1.1 * np.log(np.random.default_rng(0).permutation(size) + 1))


LARGE = {
    "flat": (np.zeros(3001, np.float32), np.arange(3001) % 7),
    "two levels": (two_levels(50_257, 0.0025, last=True), np.minimum(np.arange(50_257), 1)),
    "Zipf": (zipf(50_257), np.searchsorted([-8.0, -6.0, -3.0], zipf(50_257))),
}


@pytest.mark.parametrize("tail", LARGE)
def test_sets_of_many_values_have_their_mass(tail):
    logits, sets = LARGE[tail]
    assert set_p_value(CATEGORICAL.sample, logits, sets, 10_000) > LEVEL
    if tail == "two levels":
        assert set_p_value(old_sample, logits, sets, 10_000) < LEVEL


@pytest.mark.parametrize("size", [2, 23, 24, 25, 63, 64, 65, 1000])
def test_every_value_has_its_probability_whatever_the_number_of_values(size):
    logits = np.random.default_rng(size).normal(size=size).astype(np.float32)
    rows = jnp.broadcast_to(logits, (4_000_000 // size, size))
    z = np.asarray(optimized_jit(CATEGORICAL.sample)(jax.random.key(2), rows))
    assert np.isin(z, [0.0, 1.0]).all()
    assert (z.sum(axis=-1) == 1).all()
    counts = z.sum(axis=0)

    def p_value(logits):
        expected = len(rows) * scipy.special.softmax(logits.astype(np.float64))
        return scipy.stats.chisquare(counts, expected).pvalue

    assert p_value(logits) > LEVEL
    # In fewer draws of more values less is seen.
    assert p_value((1.5 if size == 1000 else 1.1) * logits) < LEVEL


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampler",
    [
        CATEGORICAL.sample,
        relaxations.gumbel_max,
        lambda key, x: relaxations.gumbel_softmax(key, x, 0.5),
        lambda key, x: relaxations.exp_gumbel_softmax(key, x, 0.5),
    ],
    ids=["sample", "gumbel_max", "gumbel_softmax", "exp_gumbel_softmax"],
)
def test_a_million_values(sampler):
    # Each rare value has probability 2e-8, so noise in cells of 2^-23 misses half of their mass.
    size = 1_000_000
    logits, sets = two_levels(size, 0.02, last=False), np.arange(size) // (size - 1)
    assert set_p_value(sampler, logits, sets, 2000, batch=10) > LEVEL


@pytest.mark.parametrize("logit", [-14.0, 14.0])
def test_bernoulli_of_1e_6(logit):
    draws, num_batches = jnp.full(5_000_000, logit), 8

    @optimized_jit
    def count(key):
        z = BERNOULLI.sample(key, draws), relaxations.binary_concrete(key, draws, 0.5, hard=True)
        return jnp.stack([jnp.sum(value == (logit < 0)) for value in z])

    hits = sum(np.asarray(count(jax.random.key(i)), np.int64) for i in range(num_batches))
    rare = scipy.special.expit(-abs(logit))
    for number in hits:
        test = scipy.stats.binomtest(int(number), num_batches * draws.size, rare)
        assert test.pvalue > LEVEL
    wrong = scipy.stats.binomtest(int(2 * hits[0]), num_batches * draws.size, rare)
    assert wrong.pvalue < LEVEL


@pytest.mark.parametrize("low", [-np.inf, -1e9, -1e4])
@pytest.mark.parametrize("size", [5, 24, 25, 1000])
def test_what_has_no_probability_is_never_drawn(low, size):
    logits = np.random.default_rng(4).normal(size=(20_000, size)).astype(np.float32)
    logits[:, ::3] = low
    z = np.asarray(optimized_jit(CATEGORICAL.sample)(jax.random.key(3), logits))
    assert (z.sum(axis=-1) == 1).all()
    assert z[:, ::3].sum() == 0


@pytest.mark.parametrize(("word", "expected"), [(0, 1), (2**32 - 1, 3)])
def test_extreme_words_do_not_give_impossible_values(monkeypatch, word, expected):
    patch_words(monkeypatch, np.uint32(word))
    z = CATEGORICAL.sample(jax.random.key(0), jnp.array([-jnp.inf, 0.0, 1.0, 0.0, -1e9]))
    np.testing.assert_array_equal(z, np.eye(5)[expected])


def test_rounding_of_the_cdf_never_spoils_a_sample(monkeypatch):
    # Words on and beside each step of the CDF, where partial sums in float32 would go wrong.
    rng = np.random.default_rng(6)
    logits = np.where(rng.random((2000, 24)) < 0.5, -np.inf, rng.normal(size=(2000, 24)))
    logits[:, 0] = 0.0
    steps = scipy.special.softmax(logits, axis=-1).cumsum(axis=-1) * 2.0**32
    for beside in (-2, -1, 0, 1, 2):
        words = np.clip(steps + beside, 0, 2**32 - 1).astype(np.uint32)
        patch_words(monkeypatch, words)
        rows = np.broadcast_to(np.float32(logits)[:, None], (*words.shape, 24))
        z = np.asarray(CATEGORICAL.sample(jax.random.key(0), rows))
        assert (z.sum(axis=-1) == 1).all()
        assert z[np.isneginf(rows)].sum() == 0


@pytest.mark.parametrize("size", [3, 30])
def test_an_offset_of_all_float64_logits_changes_no_draw(size):
    with jax.enable_x64(True):
        logits = np.tile(np.linspace(-1.0, 3.0, size), (200, 1)).round(3)
        shifted = logits.astype(np.float64) + 2.0**27
        plain = CATEGORICAL.sample(jax.random.key(0), jnp.asarray(shifted - 2.0**27))
        assert jnp.array_equal(CATEGORICAL.sample(jax.random.key(0), jnp.asarray(shifted)), plain)
        assert plain.sum(axis=0).max() < 200  # the differences of the logits do count
        assert plain[:, size // 2 :].sum() > 120
