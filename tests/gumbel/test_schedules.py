"""Schedules against their closed forms, also with traced steps and parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gumbel import schedules

NUM_STEPS = 1000


def last_refresh(step, interval):
    return step - step % interval


def exponential(step, interval):
    return max(0.5, 2.0 * np.exp(-1e-3 * last_refresh(step, interval)))


def linear(step, interval):
    return 2.0 - 1.5 * min(last_refresh(step, interval) / NUM_STEPS, 1)


def cosine(step, interval):
    wave = 0.5 * (1 + np.cos(np.pi * min(last_refresh(step, interval) / NUM_STEPS, 1)))
    return 0.5 + 1.5 * wave


def slope(step, interval):
    return min(3.0, 1.5 + 0.002 * last_refresh(step, interval))


CASES = {
    "exponential": (
        lambda interval: schedules.exponential(1e-3, 0.5, value=2.0, interval=interval),
        exponential,
    ),
    "linear": (lambda interval: schedules.linear(2.0, 0.5, NUM_STEPS, interval=interval), linear),
    "cosine": (lambda interval: schedules.cosine(2.0, 0.5, NUM_STEPS, interval=interval), cosine),
    "slope": (
        lambda interval: schedules.slope(0.002, 3.0, initial=1.5, interval=interval),
        slope,
    ),
}


@pytest.mark.parametrize("interval", [1, 7, 500, 2000])
@pytest.mark.parametrize("name", CASES)
def test_closed_form_at_every_boundary(name, interval):
    make, expected = CASES[name]
    steps = [0, 1, interval - 1, interval, interval + 1, 749, 750, 999, 1000, 1001, 1386, 1387]
    steps += [1399, 1400, 10**7]
    schedule = make(interval)
    values = jax.jit(jax.vmap(schedule))(jnp.array(steps))
    np.testing.assert_allclose(values, [expected(s, interval) for s in steps], rtol=2e-6)
    np.testing.assert_allclose(schedule(steps[5]), values[5], rtol=1e-6)


@pytest.mark.parametrize("name", ["exponential", "linear", "cosine"])
def test_floor_is_reached_exactly_and_kept(name):
    schedule = CASES[name][0](1)
    assert [float(schedule(step)) for step in (2000, 10**6, 10**7)] == [0.5, 0.5, 0.5]


def test_constant_does_not_depend_on_the_step():
    schedule = schedules.constant(0.7)
    values = jax.jit(jax.vmap(schedule))(jnp.array([0, 1, 10**7]))
    np.testing.assert_array_equal(values, np.full(3, 0.7, np.float32))


def test_paper_schedule():
    # Section 4.3: max(0.5, exp(-3e-5 t)), refreshed every 2000 steps; it hits the floor at 23105.
    schedule = schedules.exponential(3e-5, 0.5, interval=2000)
    values = [float(schedule(step)) for step in (1999, 2000, 3999, 23_999, 24_000)]
    np.testing.assert_allclose(values, [1.0, 0.941765, 0.941765, 0.516851, 0.5], rtol=1e-6)


def test_refreshes_are_counted_in_integers():
    # In float32 the step before the last one rounds up to it.
    schedule = schedules.slope(1.0, 1e9, interval=10_000)
    assert float(schedule(29_999_999)) == pytest.approx(29_990_001, abs=1)
    assert float(schedule(30_000_000)) == pytest.approx(30_000_001, abs=1)


@pytest.mark.parametrize("integer", [int, np.int64])
def test_steps_and_lengths_beyond_32_bits(integer):
    long = integer(3_000_000_000)
    for make in (schedules.linear, schedules.cosine):
        schedule = make(1.0, 0.1, long)
        assert float(schedule(integer(1_500_000_000))) == pytest.approx(0.55)
        assert float(jax.jit(schedule)(jnp.int32(1_500_000_000))) == pytest.approx(0.55)
        assert float(schedule(2 * long)) == pytest.approx(0.1)
    late = schedules.slope(1e-9, 5.0, interval=long)
    for step in (jnp.int32(5), jnp.int32(2**31 - 1), integer(2_999_999_999)):
        assert float(late(step)) == 1.0
    assert float(late(long)) == 4.0
    assert jax.vmap(late)(jnp.arange(3)).tolist() == [1.0, 1.0, 1.0]
    assert float(late(jnp.float32(5))) == 1.0
    often = schedules.slope(1e-9, 5.0, interval=integer(100))
    assert float(often(3_000_000_000)) == float(often(long)) == 4.0


@pytest.mark.parametrize("num_steps", [1, 3, 1000, 2**24 + 1, 10**9])
def test_the_line_is_that_of_optax(num_steps):
    steps = np.unique(np.linspace(0, min(1.5 * num_steps, 2**31 - 1), 50).astype(np.int32))
    given = np.float32(1.7), np.float32(0.3)
    ours = jax.vmap(schedules.linear(*given, num_steps))(steps)
    theirs = jax.vmap(optax.schedules.linear_schedule(*given, num_steps))(steps.astype(np.float32))
    np.testing.assert_array_equal(ours, theirs)


def test_parameters_may_be_traced():
    rates, floors = jnp.array([1e-3, 1e-4]), jnp.array([0.5, 0.1])
    intervals = jnp.array([500, 1000])
    steps = jnp.array([999, 1500])

    def sweep(rate, floor, interval, step):
        return jnp.stack(
            [
                schedules.constant(floor)(step),
                schedules.exponential(rate, floor, value=2.0, interval=interval)(step),
                schedules.linear(2.0, floor, NUM_STEPS, interval=interval)(step),
                schedules.cosine(2.0, floor, NUM_STEPS, interval=interval)(step),
                schedules.slope(rate, 1 / floor, initial=1.0, interval=interval)(step),
            ]
        )

    together = jax.jit(jax.vmap(sweep))(rates, floors, intervals, steps)
    for row, arguments in enumerate(zip(rates, floors, intervals, steps, strict=True)):
        np.testing.assert_allclose(together[row], sweep(*(a.item() for a in arguments)), rtol=1e-6)


def test_parameters_are_differentiable():
    gradient = jax.grad(lambda rate: schedules.exponential(rate, 0.1)(100))(1e-3)
    assert float(gradient) == pytest.approx(-100 * np.exp(-0.1), rel=1e-5)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: schedules.constant(0.0), "value"),
        (lambda: schedules.constant(float("nan")), "value"),
        (lambda: schedules.exponential(-1e-5, 0.5), "rate"),
        (lambda: schedules.exponential(float("inf"), 0.5), "rate"),
        (lambda: schedules.exponential(1e-5, 0.0), "floor"),
        (lambda: schedules.exponential(1e-5, 0.5, value=-1.0), "value"),
        (lambda: schedules.exponential(1e-5, 0.5, interval=0), "interval"),
        (lambda: schedules.exponential(1e-5, 0.5, interval=1000.0), "interval"),
        (lambda: schedules.linear(1.0, -0.5, 10), "floor"),
        (lambda: schedules.linear(float("inf"), 0.5, 10), "value"),
        (lambda: schedules.linear(1.0, 0.5, 0), "num_steps"),
        (lambda: schedules.linear(1.0, 0.5, 10, interval=0), "interval"),
        (lambda: schedules.cosine(0.0, 0.5, 10), "value"),
        (lambda: schedules.cosine(1.0, 0.5, -1), "num_steps"),
        (lambda: schedules.slope(-1.0, 2.0), "rate"),
        (lambda: schedules.slope(1.0, 0.0), "maximum"),
        (lambda: schedules.slope(1.0, 2.0, initial=float("nan")), "initial"),
    ],
)
def test_bad_parameters_are_refused_by_name_in_one_line(make, name):
    with pytest.raises(ValueError, match=rf"^schedule: {name} must be [^\n]+, got [^\n]+$"):
        make()


@pytest.mark.parametrize("make", [schedules.linear, schedules.cosine])
def test_a_length_is_an_integer_and_an_interval_has_a_name(make):
    with pytest.raises(TypeError, match=r"^schedule: num_steps must be an integer .*, got 10\.5$"):
        make(1.0, 0.5, 10.5)
    with pytest.raises(TypeError, match="positional"):
        make(1.0, 0.5, 10, 5)
