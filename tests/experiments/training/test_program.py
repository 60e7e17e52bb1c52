"""A run as pure functions: its batches, its steps, its temperature and what may vary in a sweep."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data import batches
from experiments.tasks.layers import objective as objective_of
from experiments.training import temperature
from experiments.training.program import Program, dynamic_of
from gumbel import BERNOULLI, estimators, exact
from tests.experiments import small

pytestmark = pytest.mark.usefixtures("optimized")  # for the bits that training gives

NUM_IMAGES, BATCH_SIZE = 23, 5
PER_EPOCH = NUM_IMAGES // BATCH_SIZE
NUM_STEPS = 60


@pytest.fixture(scope="module", name="dataset")
def fixture_dataset():
    return small.dataset()


@pytest.fixture(scope="module", name="images")
def fixture_images(dataset):
    return jnp.asarray(dataset.train.images)


batch_indices = jax.jit(
    partial(batches.batch_indices, size=NUM_IMAGES, batch_size=BATCH_SIZE),
    static_argnames="num_steps",
)


def assert_identical(actual: Any, expected: Any) -> None:
    """The same pytree, bit for bit."""
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def distance(one: Any, other: Any) -> float:
    """The largest difference between two pytrees of parameters."""
    gaps = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), one, other)
    return max(jax.tree.leaves(gaps))


# Batches


def test_each_epoch_is_another_permutation():
    epochs = np.asarray(batch_indices(3, 0, num_steps=12 * PER_EPOCH)).reshape(12, -1)
    for epoch in epochs:
        assert len(set(epoch)) == PER_EPOCH * BATCH_SIZE
        assert set(epoch) <= set(range(NUM_IMAGES))
    assert len({tuple(epoch) for epoch in epochs}) == 12
    # The three images that an epoch leaves out are not the same ones each time.
    assert set(epochs.ravel()) == set(range(NUM_IMAGES))


def test_the_batch_of_a_step_does_not_depend_on_the_window():
    whole = np.asarray(batch_indices(3, 0, num_steps=12 * PER_EPOCH))
    for num_steps in (1, 6):
        for start in (0, 1, PER_EPOCH - 1, PER_EPOCH, 3 * PER_EPOCH - 1, 30):
            window = batch_indices(3, start, num_steps=num_steps)
            np.testing.assert_array_equal(window, whole[start : start + num_steps])


def test_batches_depend_on_the_seed():
    assert not np.array_equal(batch_indices(3, 0, num_steps=6), batch_indices(4, 0, num_steps=6))


def test_a_batch_of_the_whole_set():
    indices = batches.batch_indices(0, 2, num_steps=3, size=4, batch_size=4)
    np.testing.assert_array_equal(np.sort(indices), [[0, 1, 2, 3]] * 3)


def test_no_two_purposes_share_a_key():
    """Of two names for one number, an enumeration lists the first alone."""
    members = batches.Purpose.__members__
    assert len(set(members.values())) == len(members)
    data = [jax.random.key_data(batches.key_for(3, purpose)) for purpose in batches.Purpose]
    assert len(np.unique(data, axis=0)) == len(members)


# Pixels


def test_grey_pixels_are_scaled_or_drawn():
    grey = jnp.broadcast_to(jnp.array([0, 1, 8, 16], jnp.uint8), (10_000, 1, 4))
    key = jax.random.key(0)
    scaled = batches.pixels(grey, 16, key, dynamic=False)
    np.testing.assert_array_equal(scaled[0, 0], [0, 1 / 16, 1 / 2, 1])
    drawn = np.asarray(batches.pixels(grey, 16, key, dynamic=True))
    assert set(np.unique(drawn)) == {0, 1}
    # Five standard errors: fails once in a million for a right mean, surely for one 0.03 off.
    np.testing.assert_allclose(drawn.mean(axis=0)[0], scaled[0, 0], atol=5 * 0.5 / 100)
    np.testing.assert_array_equal(drawn[:, 0, [0, 3]], scaled[:, 0, [0, 3]])


def test_binary_pixels_stay_as_they_are():
    binary = jnp.array([[[0, 1, 1]]], jnp.uint8)
    for dynamic in (False, True):
        drawn = batches.pixels(binary, 1, jax.random.key(0), dynamic=dynamic)
        np.testing.assert_array_equal(drawn, binary)


@pytest.mark.parametrize("binarization", ["threshold", "dynamic"])
def test_dynamic_binarization_draws_anew_at_each_step(binarization):
    """With an estimator that draws nothing, and no learning, only the pixels can move the cost."""
    settings = small.settings(
        estimator__name="marginalization",
        binarization=binarization,
        learning_rate=1e-30,
        optimizer="adam",
    )
    grey = small.dataset(max_value=16)
    dataset = grey.binarized() if binarization == "threshold" else grey
    program, dynamic = Program.make(settings, dataset), dynamic_of(settings)
    same_batch = jnp.tile(jnp.arange(BATCH_SIZE), (8, 1))

    @small.quick_jit
    def costs(images):
        return program.run(dynamic, images, program.init(dynamic, images), same_batch)[1].cost

    found = np.asarray(costs(jnp.asarray(dataset.train.images)))
    assert len(np.unique(found)) == (1 if binarization == "threshold" else 8)


# Steps


@pytest.fixture(scope="module", name="sbn")
def fixture_sbn(dataset, images):
    """A program whose temperature moves, its jitted functions, and how often they were traced."""
    settings = small.settings(
        temperature__name="exponential", temperature__rate=0.02, learning_rate=0.05
    )
    program = Program.make(settings, dataset)
    traces = []

    def counted(*arguments):
        traces.append(arguments)
        return program.run(*arguments)

    init, run = jax.jit(program.init), jax.jit(counted)

    def after(dynamic, sizes):
        """The state and the trace after steps grouped into calls of these sizes."""
        state, parts = init(dynamic, images), []
        for size in sizes:
            indices = batch_indices(dynamic["seed"], state.step, num_steps=size)
            state, trace = run(dynamic, images, state, indices)
            parts.append(trace)
        return state, jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    return settings, program, after, traces


def test_steps_do_not_depend_on_how_they_are_grouped(sbn):
    """Bit for bit between the sizes of a loop; a lone step is another program and rounds anew."""
    settings, _, after, _ = sbn
    dynamic = dynamic_of(settings)
    state, trace = after(dynamic, [60])
    assert int(state.step) == NUM_STEPS
    assert trace.cost.shape == trace.temperature.shape == (NUM_STEPS,)
    assert_identical(after(dynamic, [20, 20, 20]), (state, trace))
    lone_state, lone_trace = after(dynamic, [1] * NUM_STEPS)
    assert_identical(after(dynamic, [1] * NUM_STEPS), (lone_state, lone_trace))
    np.testing.assert_allclose(lone_trace.cost, trace.cost, rtol=1e-4)
    assert distance(lone_state.params, state.params) < 1e-4
    # Differences of this size would show: the steps went far beyond the tolerance.
    assert distance(state.params, after(dynamic, [20])[0].params) > 0.01


DYNAMIC = {
    "seed": 1,
    "learning_rate": 0.02,
    "momentum": 0.5,
    "temperature.value": 2.0,
    "temperature.rate": 0.1,
    "temperature.floor": 0.95,
    "temperature.interval": 7,
}


LEARNED = {"temperature.learning_rate", "temperature.average_over"}  # read where it is learned


def test_dynamic_hyperparameters_change_the_run_but_not_the_program(sbn):
    settings, _, after, traces = sbn
    assert {*DYNAMIC, *LEARNED} == set(settings.dynamic())
    dynamic = dynamic_of(settings)
    state, _ = after(dynamic, [20])
    traced_before = len(traces)
    for key, value in DYNAMIC.items():
        other, _ = after(dynamic | {key: jnp.asarray(value, dynamic[key].dtype)}, [20])
        assert distance(other.params, state.params) > 1e-5, key
    assert len(traces) == traced_before


def test_float_options_of_estimators_are_dynamic_and_counts_are_not():
    keys = small.settings(estimator__name="nvil", estimator__baseline_hidden=3).dynamic()
    assert set(keys) == {*DYNAMIC, *LEARNED}
    settings = small.settings(
        estimator__name="nvil",
        estimator__decay=0.5,
        estimator__baseline_learning_rate=0.1,
        estimator__baseline_hidden=3,
    )
    added = set(settings.dynamic()) - {*DYNAMIC, *LEARNED}
    assert added == {"estimator.decay", "estimator.baseline_learning_rate"}
    assert set(dynamic_of(settings)) == set(settings.dynamic())


def test_a_grid_of_runs_as_one_program(sbn, images):
    """A vmap over stacked numbers gives each run as it is alone, up to rounding."""
    settings, program, after, _ = sbn
    dynamic = dynamic_of(settings)
    runs = [dynamic] + [
        dynamic | {key: jnp.asarray(DYNAMIC[key], dynamic[key].dtype)}
        for key in ("seed", "learning_rate", "temperature.interval")
    ]

    @small.quick_jit
    @jax.vmap
    def grid(dynamic):
        indices = batch_indices(dynamic["seed"], 0, num_steps=20)
        return program.run(dynamic, images, program.init(dynamic, images), indices)

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *runs)
    states, traces = grid(stacked)
    for index, one in enumerate(runs):
        state, trace = after(one, [20])
        np.testing.assert_allclose(traces.cost[index], trace.cost, rtol=1e-4)
        found = jax.tree.map(lambda leaf, i=index: leaf[i], states.params)
        assert distance(found, state.params) < 1e-4


def test_a_step_descends_the_gradient_with_momentum(dataset, images):
    """Two steps with the exact gradient against the same two written out."""
    settings = small.settings(estimator__name="marginalization", learning_rate=0.1, momentum=0.9)
    program, dynamic = Program.make(settings, dataset), dynamic_of(settings)
    indices = jnp.arange(2 * BATCH_SIZE).reshape(2, BATCH_SIZE)
    start = small.quick_jit(program.init)(dynamic, images)
    run = small.quick_jit(program.run)
    state, trace = run(dynamic, images, start, indices)

    objective = objective_of(program.model, temperature=1.0)

    @small.quick_jit
    def value_and_grad(params, images):
        batch = program.model.batch(images.astype(jnp.float32))
        return exact.value_and_grad(objective, params, batch, jax.random.key(0), BERNOULLI)

    params, velocity = start.params, jax.tree.map(jnp.zeros_like, start.params)
    for step in range(2):
        value, gradient = value_and_grad(params, images[indices[step]])
        np.testing.assert_allclose(trace.cost[step], value, rtol=1e-5)
        velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, gradient)
        params = jax.tree.map(lambda p, v: p - 0.1 * v, params, velocity)
    assert distance(state.params, params) < 1e-5
    assert distance(state.params, start.params) > 0.01


# The temperature


def at(settings, step, raw=0.0):
    """The temperature of a step."""
    dynamic = dynamic_of(settings)
    return temperature.at(
        settings.temperature, settings.num_steps, dynamic, jnp.asarray(step), jnp.asarray(raw)
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("constant", lambda t: 2.0),
        ("exponential", lambda t: max(0.5, 2.0 * np.exp(-0.03 * t))),
        ("linear", lambda t: 2.0 - 1.5 * t / NUM_STEPS),
        ("cosine", lambda t: 0.5 + 1.5 * (1 + np.cos(np.pi * t / NUM_STEPS)) / 2),
    ],
)
@pytest.mark.parametrize("interval", [1, 7])
def test_scheduled_temperatures(name, expected, interval):
    settings = small.settings(
        temperature__name=name,
        temperature__value=2.0,
        temperature__rate=0.03,
        temperature__floor=0.5,
        temperature__interval=interval,
    )
    for step in (0, 1, 6, 7, 13, 48, 59):
        found = at(settings, step, 9.0)
        assert float(found) == pytest.approx(expected(step // interval * interval), rel=1e-5)


def test_a_schedule_may_take_a_share_of_the_steps():
    settings = small.settings(
        temperature__name="linear", temperature__floor=0.5, temperature__share=0.5
    )
    found = [float(at(settings, step)) for step in (0, NUM_STEPS // 4, NUM_STEPS // 2, NUM_STEPS)]
    assert found == pytest.approx([1.0, 0.75, 0.5, 0.5])


@pytest.fixture(scope="module", name="learned")
def fixture_learned(dataset, images):
    """`run(value, learning_rate)` of a program that learns its temperature every second step."""
    settings = small.settings(
        "vae",
        batch_size=20,
        temperature__name="learned",
        temperature__floor=0.25,
        temperature__update_every=2,
    )
    program, dynamic = Program.make(settings, dataset), dynamic_of(settings)
    indices = jnp.tile(jnp.arange(20), (80, 1))

    @small.quick_jit
    def run(value, learning_rate):
        mine = dynamic | {"temperature.value": value, "temperature.learning_rate": learning_rate}
        state = program.init(mine, images)
        after, trace = program.run(mine, images, state, indices)
        return state, after, trace

    return lambda value, learning_rate: run(jnp.float32(value), jnp.float32(learning_rate))


def test_a_learned_temperature_starts_at_its_value_and_moves_when_it_is_due(learned):
    start, _, trace = learned(0.75, 0.02)
    assert float(start.temperature) == pytest.approx(np.log(0.75 - 0.25))
    moved = np.diff(np.log(trace.temperature - 0.25)) != 0
    np.testing.assert_array_equal(moved, np.arange(79) % 2 == 0)
    # Adam's first step is its learning rate, whatever the slope.
    first = np.log(float(trace.temperature[1]) - 0.25) - np.log(0.5)
    assert abs(first) == pytest.approx(0.02, rel=1e-3)


def test_a_learned_temperature_comes_down_where_the_relaxed_cost_would_have_it_climb(learned):
    _, _, trace = learned(4.0, 0.05)
    assert trace.temperature[-1] < 2.5
    costs = [np.mean(learned(value, 1e-9)[2].cost) for value in (4.0, 5.0)]
    assert costs[1] < costs[0]


def test_a_learned_temperature_keeps_its_dtype_in_double_precision(dataset, images):
    with jax.enable_x64(True):
        settings = small.settings(temperature__name="learned")
        program, dynamic = Program.make(settings, dataset), dynamic_of(settings)
        start = jax.eval_shape(program.init, dynamic, images)
        indices = jax.ShapeDtypeStruct((1, settings.batch_size), jnp.int32)
        after, _ = jax.eval_shape(program.run, dynamic, images, start, indices)
    assert after.temperature.dtype == start.temperature.dtype


def test_a_learned_temperature_stays_over_its_floor(learned):
    _, _, trace = learned(0.75, 2.0)
    assert np.all(trace.temperature >= 0.25)
    assert np.all(np.isfinite(trace.temperature))
    assert np.ptp(trace.temperature) > 0.1


def test_a_scheduled_temperature_has_nothing_to_learn(sbn):
    settings, _, after, _ = sbn
    state, trace = after(dynamic_of(settings), [20])
    assert float(state.temperature) == 0
    assert state.adaptation is None
    np.testing.assert_allclose(trace.temperature, np.exp(-0.02 * np.arange(20)), rtol=1e-5)


# Every estimator


def trains(name, model, latent, dataset, images):
    settings = small.settings(model, latent=latent, estimator__name=name)
    program, dynamic = Program.make(settings, dataset), dynamic_of(settings)
    indices = jnp.arange(4 * BATCH_SIZE).reshape(4, BATCH_SIZE)

    @small.quick_jit
    def train(dynamic, images):
        start = program.init(dynamic, images)
        return start, *program.run(dynamic, images, start, indices)

    start, state, trace = train(dynamic, images)
    assert int(state.step) == 4
    assert trace.cost.shape == (4,)
    for leaf in jax.tree.leaves((state, trace)):
        assert np.isfinite(leaf).all()
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), start.params, state.params)
    assert min(jax.tree.leaves(moved)) > 0, moved
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, start)


@pytest.mark.parametrize(
    ("model", "latent", "name"),
    [
        *[("sbn", "bernoulli", name) for name in ("sf", "muprop", "nvil")],
        *[("vae", "categorical", name) for name in ("gumbel_softmax", "vimco")],
    ],
)
def test_estimators_of_each_mechanism_train_every_parameter(name, model, latent, dataset, images):
    trains(name, model, latent, dataset, images)


@pytest.mark.slow
@pytest.mark.parametrize("latent", ["bernoulli", "categorical"])
@pytest.mark.parametrize("model", ["sbn", "vae"])
@pytest.mark.parametrize("name", estimators.names())
def test_every_estimator_trains_every_parameter(name, model, latent, dataset, images):
    trains(name, model, latent, dataset, images)
