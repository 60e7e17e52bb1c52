"""Every sample, density and schedule under each of JAX's strict and special modes.

Where a value is masked (-inf) too: no mode may meet a NaN that valid input did not bring.
"""

import contextlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gumbel import densities, relaxations, schedules
from gumbel.families import BERNOULLI, CATEGORICAL

MODES = {
    "strict dtypes": lambda: jax.numpy_dtype_promotion("strict"),
    "strict ranks": lambda: jax.numpy_rank_promotion("raise"),
    "debug_nans": lambda: jax.debug_nans(True),
    "x64": lambda: jax.enable_x64(True),
    "x64, strict dtypes": lambda: both(jax.enable_x64(True), jax.numpy_dtype_promotion("strict")),
    "checking_leaks": jax.checking_leaks,
    "disable_jit": jax.disable_jit,
}
FAMILIES = {"bernoulli": BERNOULLI, "categorical": CATEGORICAL}
LOGITS = {
    "bernoulli": [[0.5, -np.inf, np.inf], [-1e9, 0.0, 30.0]],
    "categorical": [[[0.5, -np.inf, 1.0], [0.0, -1e9, -2.0]]],
}


@contextlib.contextmanager
def both(first, second):
    with first, second:
        yield


def family_results(fam, key, logits, temperature):
    """A scalar of all that a family gives, and the values themselves."""
    row = logits[:1]  # leading axes broadcast, and lower ranks too
    z = fam.sample(key, logits)
    relaxed = fam.relax(key, logits, temperature)
    noise = fam.conditional_noise(key, logits, z)
    values = {
        "sample": z,
        "relaxed": relaxed,
        "hard": fam.relax(key, logits, temperature, hard=True),
        "softened": fam.soften(logits, noise, temperature),
        "mean": fam.mean(logits),
        "uniform_mean": fam.uniform_mean(logits),
        "log_prob": fam.log_prob(logits, z),
        "log_prob of a row": fam.log_prob(row[0], fam.sample(key, row)),
        "entropy": fam.entropy(logits),
        "kl": fam.kl(logits, logits),
        "kl to a row": fam.kl(row, row[0]),
        "relaxed_log_prob": fam.relaxed_log_prob(logits, temperature, jax.lax.stop_gradient(z)),
    }
    return sum(jnp.sum(value.astype(jnp.float32)) for value in values.values()), values


def assert_right(values, logits):
    for name, value in values.items():
        assert np.isfinite(np.asarray(value, np.float32)).all(), name
        in_nats = name in {"log_prob", "log_prob of a row", "entropy", "kl", "kl to a row"}
        wide = jnp.float32 if in_nats or name == "relaxed_log_prob" else logits.dtype
        assert value.dtype == wide, name
    impossible = np.asarray(logits, np.float32) <= -1e8
    for name in ("sample", "relaxed", "hard", "softened", "mean", "uniform_mean"):
        assert (np.asarray(values[name], np.float32)[impossible] == 0).all(), name


@pytest.mark.parametrize(
    ("mode", "dtype"),
    [
        *((mode, jnp.float32) for mode in MODES if mode != "disable_jit"),
        ("x64, strict dtypes", jnp.bfloat16),
    ],
)
@pytest.mark.parametrize("name", FAMILIES)
def test_families(mode, dtype, name):
    fam, key = FAMILIES[name], jax.random.key(0)
    with MODES[mode]():
        logits, temperature = jnp.asarray(LOGITS[name], dtype), jnp.asarray(0.5, dtype)
        results = jax.value_and_grad(partial(family_results, fam), argnums=(1, 2), has_aux=True)
        (_, values), slopes = jax.jit(results)(key, logits, temperature)
        assert_right(values, logits)
        for slope in slopes:
            assert np.isfinite(np.asarray(slope, np.float32)).all()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["debug_nans", "disable_jit"])
@pytest.mark.parametrize("name", FAMILIES)
def test_families_one_operation_at_a_time(mode, name):
    # Without jit each operation's result is looked at, not only the last.
    with MODES[mode]():
        logits = jnp.asarray(LOGITS[name], jnp.float32)
        _, values = family_results(FAMILIES[name], jax.random.key(0), logits, 0.5)
        assert_right(values, logits)


@pytest.mark.parametrize("mode", MODES)
def test_relaxations_and_densities(mode):
    def results(key, logits, odds, temperature):
        row = jnp.broadcast_to(temperature, (*logits.shape[:-1], 1))
        log_y = relaxations.exp_gumbel_softmax(key, logits, row)
        logit_y = relaxations.logit_binary_concrete(key, odds, temperature)
        return {
            "gumbel_max": relaxations.gumbel_max(key, logits),
            "log density": densities.exp_gumbel_softmax_log_prob(log_y, logits, row),
            "density": densities.gumbel_softmax_log_prob(jnp.exp(log_y), logits[0], temperature),
            "log odds density": densities.logit_binary_concrete_log_prob(logit_y, odds, 0.5),
            "odds density": densities.binary_concrete_log_prob(
                jax.nn.sigmoid(logit_y), odds, temperature
            ),
        }

    with MODES[mode]():
        logits = jnp.asarray(LOGITS["categorical"], jnp.float32)
        odds = jnp.asarray(LOGITS["bernoulli"], jnp.float32)
        temperature = jnp.asarray(0.5, jnp.float32)
        values = jax.jit(results)(jax.random.key(1), logits, odds, temperature)
    for name, value in values.items():
        assert value.dtype == jnp.float32
        assert np.isfinite(np.asarray(value)).all(), name


@pytest.mark.parametrize("mode", MODES)
def test_schedules(mode):
    with MODES[mode]():
        rate, floor = jnp.asarray(1e-3, jnp.float32), jnp.asarray(0.5, jnp.float32)
        made = [
            schedules.constant(floor),
            schedules.exponential(rate, floor, interval=10),
            schedules.linear(1.0, floor, 100),
            schedules.cosine(floor, 0.1, 100),
            schedules.slope(rate, 2.0),
        ]
        values = jax.jit(lambda step: [schedule(step) for schedule in made])(jnp.asarray(25))
    expected = [0.5, np.exp(-0.02), 0.875, 0.1 + 0.4 * (1 + np.cos(np.pi / 4)) / 2, 1.025]
    np.testing.assert_allclose(np.asarray(values, np.float64), expected, rtol=1e-6)


def test_debug_nans_finds_a_nan_that_valid_input_did_not_bring():
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        CATEGORICAL.sample(jax.random.key(0), jnp.full(3, -jnp.inf))
