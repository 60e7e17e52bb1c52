"""The steps of a run: how they are grouped, what may vary in a sweep, and the optimizers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from experiments.tasks.functional import objective as objective_of
from experiments.training.dynamic import dynamic_of
from experiments.training.program import Program
from gumbel import BERNOULLI, exact
from tests.experiments import small
from tests.experiments.training.small_batches import BATCH_SIZE, batch_indices

pytestmark = pytest.mark.usefixtures("optimized")  # for the bits that training gives

NUM_STEPS = 60


def assert_identical(actual: Any, expected: Any) -> None:
    """The same pytree, bit for bit."""
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def distance(one: Any, other: Any) -> float:
    """The largest difference between two pytrees of parameters."""
    gaps = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), one, other)
    return max(jax.tree.leaves(gaps))


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


def test_a_scheduled_temperature_has_nothing_to_learn(sbn):
    settings, _, after, _ = sbn
    state, trace = after(dynamic_of(settings), [20])
    assert float(state.temperature) == 0
    assert state.adaptation is None
    np.testing.assert_allclose(trace.temperature, np.exp(-0.02 * np.arange(20)), rtol=1e-5)


# Optimizers


def momentum(_, gradient, velocity):
    velocity = 0.9 * velocity + gradient
    return velocity, velocity


def adam(step, gradient, moments):
    first, second = moments
    first = 0.9 * first + 0.1 * gradient
    second = 0.999 * second + 0.001 * gradient**2
    corrected = [first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))]
    return corrected[0] / (np.sqrt(corrected[1]) + 1e-8), np.stack([first, second])


@pytest.mark.parametrize(
    ("optimizer", "schedule", "rates"),
    [
        ("sgd", "constant", [0.1, 0.1]),
        ("adam", "cosine", [0.1, 0.1 * (1 + np.cos(np.pi / 4)) / 2]),  # of four steps
    ],
)
def test_a_step_descends_the_gradient(optimizer, schedule, rates, dataset, images):
    """Two steps with the exact gradient against the same two written out."""
    settings = small.settings(
        estimator__name="marginalization",
        optimizer=optimizer,
        learning_rate=0.1,
        learning_rate_schedule=schedule,
        num_steps=4,
    )
    program, dynamic = Program.make(settings, dataset), dynamic_of(settings)
    indices = jnp.arange(2 * BATCH_SIZE).reshape(2, BATCH_SIZE)

    @small.quick_jit
    def run(dynamic, images):
        start = program.init(dynamic, images)
        return start, *program.run(dynamic, images, start, indices)

    start, state, trace = run(dynamic, images)
    objective = objective_of(program.model, temperature=1.0)
    flat, unravel = ravel_pytree(start.params)

    @small.quick_jit
    def value_and_grad(flat, images):
        batch, params = program.model.batch(images.astype(jnp.float32)), unravel(flat)
        return exact.value_and_grad(objective, params, batch, jax.random.key(0), BERNOULLI)

    params, memory = np.asarray(flat), np.zeros((1 if optimizer == "sgd" else 2, flat.size))
    for step, rate in enumerate(rates):
        value, gradient = value_and_grad(jnp.asarray(params, jnp.float32), images[indices[step]])
        np.testing.assert_allclose(trace.cost[step], value, rtol=1e-5)
        follow = {"sgd": momentum, "adam": adam}[optimizer]
        along, memory = follow(step, np.asarray(ravel_pytree(gradient)[0]), memory)
        params = params - rate * along.reshape(-1)
    found = ravel_pytree(state.params)[0]
    np.testing.assert_allclose(found, params, atol=1e-5)
    assert np.abs(found - flat).max() > 0.01
