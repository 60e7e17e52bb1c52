"""Every sample, density and schedule under each of JAX's strict and special modes.

Where a value is masked (-inf) too: no mode may meet a NaN that valid input did not bring.
"""

import contextlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

from gumbel import densities, relaxations, schedules
from gumbel.families import BERNOULLI, CATEGORICAL

MODES = {
    "strict dtypes": lambda: jax.numpy_dtype_promotion("strict"),
    "strict ranks": lambda: jax.numpy_rank_promotion("raise"),
    "checking_leaks": jax.checking_leaks,
    "x64, strict dtypes": lambda: both(jax.enable_x64(True), jax.numpy_dtype_promotion("strict")),
    "disable_jit": jax.disable_jit,
}
TRACED = ("strict dtypes", "strict ranks", "checking_leaks")  # these fail while tracing, or never
FAMILIES = {"bernoulli": BERNOULLI, "categorical": CATEGORICAL}
LOGITS = {
    "bernoulli": [[0.5, -np.inf, np.inf], [-1e9, 0.0, 30.0]],
    "categorical": [[[0.5, -np.inf, 1.0], [0.0, -1e9, -2.0]]],
}


@contextlib.contextmanager
def both(first, second):
    with first, second:
        yield


def with_nan_checks(function):
    """Jitted, with a check of each operation's result; `debug_nans` sees those of a jit alone."""
    checked = jax.jit(checkify.checkify(function, errors=checkify.nan_checks))

    def run(*arguments):
        error, results = checked(*arguments)
        error.throw()
        return results

    return run


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
        "relaxed_log_prob": fam.relaxed_log_prob(logits, jax.lax.stop_gradient(z), temperature),
    }
    return sum(jnp.sum(value.astype(jnp.float32)) for value in values.values()), values


def assert_dtypes(values, dtype):
    for name, value in values.items():
        in_nats = name in {"log_prob", "log_prob of a row", "entropy", "kl", "kl to a row"}
        wide = jnp.float32 if in_nats or name == "relaxed_log_prob" else dtype
        assert value.dtype == wide, name


def assert_right(values, logits):
    assert_dtypes(values, logits.dtype)
    for name, value in values.items():
        assert np.isfinite(np.asarray(value, np.float32)).all(), name
    impossible = np.asarray(logits, np.float32) <= -1e8
    for name in ("sample", "relaxed", "hard", "softened", "mean", "uniform_mean"):
        assert (np.asarray(values[name], np.float32)[impossible] == 0).all(), name


def values_and_slopes(name):
    results = partial(family_results, FAMILIES[name])
    return jax.value_and_grad(results, argnums=(1, 2), has_aux=True)


def arguments(name, dtype):
    return jax.random.key(0), jnp.asarray(LOGITS[name], dtype), jnp.asarray(0.5, dtype)


def assert_all_right(found, logits):
    (_, values), slopes = found
    assert_right(values, logits)
    for slope in slopes:
        assert np.isfinite(np.asarray(slope, np.float32)).all()


@pytest.mark.parametrize("mode", TRACED)
@pytest.mark.parametrize("name", FAMILIES)
def test_families_are_traced(mode, name):
    with MODES[mode]():
        (_, values), _ = jax.eval_shape(values_and_slopes(name), *arguments(name, jnp.float32))
    assert_dtypes(values, jnp.float32)


@pytest.mark.parametrize("name", FAMILIES)
def test_no_operation_of_a_family_gives_nan(name):
    with MODES["x64, strict dtypes"]():
        given = arguments(name, jnp.float32)
        assert_all_right(with_nan_checks(values_and_slopes(name))(*given), given[1])


@pytest.mark.parametrize("name", FAMILIES)
def test_families_in_sixteen_bits(name):
    with MODES["x64, strict dtypes"]():
        given = arguments(name, jnp.bfloat16)
        assert_all_right(jax.jit(values_and_slopes(name))(*given), given[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_families_one_operation_at_a_time(name):
    with jax.disable_jit():
        logits = jnp.asarray(LOGITS[name], jnp.float32)
        _, values = family_results(FAMILIES[name], jax.random.key(0), logits, 0.5)
        assert_right(values, logits)


def relaxations_and_densities(key, logits, odds, temperature):
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


def of_both_families():
    logits = jnp.asarray(LOGITS["categorical"], jnp.float32)
    odds = jnp.asarray(LOGITS["bernoulli"], jnp.float32)
    return jax.random.key(1), logits, odds, jnp.asarray(0.5, jnp.float32)


@pytest.mark.parametrize("mode", MODES)
def test_relaxations_and_densities(mode):
    with MODES[mode]():
        if mode in TRACED:
            values = jax.eval_shape(relaxations_and_densities, *of_both_families())
        elif mode == "disable_jit":
            values = relaxations_and_densities(*of_both_families())
        else:
            values = with_nan_checks(relaxations_and_densities)(*of_both_families())
    for name, value in values.items():
        assert value.dtype == jnp.float32
        assert mode in TRACED or np.isfinite(np.asarray(value)).all(), name


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

        def values(step):
            return [schedule(step) for schedule in made]

        if mode in TRACED:
            jax.eval_shape(values, jnp.asarray(25))
            return
        found = jax.jit(values)(jnp.asarray(25))
    expected = [0.5, np.exp(-0.02), 0.875, 0.1 + 0.4 * (1 + np.cos(np.pi / 4)) / 2, 1.025]
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=1e-6)


def test_the_checks_find_a_nan_that_valid_input_did_not_bring():
    sample = partial(CATEGORICAL.sample, jax.random.key(0))
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        sample(jnp.full(3, -jnp.inf))
    with pytest.raises(checkify.JaxRuntimeError, match="nan generated"):
        with_nan_checks(sample)(jnp.full(3, -jnp.inf))
