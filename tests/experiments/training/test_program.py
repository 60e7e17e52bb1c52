"""A run as pure functions: its batches, its pixels and its temperature."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.data import batches
from experiments.training import temperature
from experiments.training.compiled import Compiled, prepared_dataset
from experiments.training.dynamic import dynamic_of, make_estimator
from experiments.training.placement import Placement
from experiments.training.program import Program
from gumbel import estimators
from tests.experiments import small
from tests.experiments.training.small_batches import BATCH_SIZE, NUM_IMAGES, batch_indices

PER_EPOCH = NUM_IMAGES // BATCH_SIZE
NUM_STEPS = 60


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


def test_gray_pixels_are_scaled_or_drawn():
    gray = jnp.broadcast_to(jnp.array([0, 1, 8, 16], jnp.uint8), (10_000, 1, 4))
    key = jax.random.key(0)
    scaled = batches.pixels(gray, 16, key, dynamic_binarization=False)
    np.testing.assert_array_equal(scaled[0, 0], [0, 1 / 16, 1 / 2, 1])
    drawn = np.asarray(batches.pixels(gray, 16, key, dynamic_binarization=True))
    assert set(np.unique(drawn)) == {0, 1}
    # Five standard errors: fails once in a million for a right mean; one that is 0.05 off passes as
    # rarely.
    np.testing.assert_allclose(drawn.mean(axis=0)[0], scaled[0, 0], atol=5 * 0.5 / 100)
    np.testing.assert_array_equal(drawn[:, 0, [0, 3]], scaled[:, 0, [0, 3]])


def test_binary_pixels_stay_as_they_are():
    binary = jnp.array([[[0, 1, 1]]], jnp.uint8)
    for dynamic in (False, True):
        drawn = batches.pixels(binary, 1, jax.random.key(0), dynamic_binarization=dynamic)
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
    gray = small.dataset(max_value=16)
    dataset = gray.binarized() if binarization == "threshold" else gray
    program, dynamic = Program.make(settings, dataset), dynamic_of(settings)
    same_batch = jnp.tile(jnp.arange(BATCH_SIZE), (8, 1))

    @small.quick_jit
    def costs(images):
        return program.run(dynamic, images, program.init(dynamic, images), same_batch)[1].cost

    found = np.asarray(costs(jnp.asarray(dataset.train.images)))
    assert len(np.unique(found)) == (1 if binarization == "threshold" else 8)


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
    """`run` of a program that learns its temperature every second step."""
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
    def run(value, learning_rate, average_over):
        changed = {"value": value, "learning_rate": learning_rate, "average_over": average_over}
        mine = dynamic | {f"temperature.{key}": value for key, value in changed.items()}
        state = program.init(mine, images)
        after, trace = program.run(mine, images, state, indices)
        return state, after, trace

    return lambda value, rate, average_over=10.0: run(
        *map(jnp.float32, (value, rate, average_over))
    )


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


def test_the_less_noise_counts_the_lower_is_a_learned_temperature(learned):
    noisy, averaged = (
        learned(2.0, 0.05, average_over=number)[2].temperature[-1] for number in (1.0, 1000.0)
    )
    assert averaged < noisy - 0.1


def test_a_learned_temperature_keeps_its_dtype_in_double_precision(dataset, images):
    with jax.enable_x64(True):
        settings = small.settings(temperature__name="learned")
        program, dynamic = Program.make(settings, dataset), dynamic_of(settings)
        start = jax.eval_shape(program.init, dynamic, images)
        indices = jax.ShapeDtypeStruct((1, settings.batch_size), jnp.int32)
        after, _ = jax.eval_shape(program.run, dynamic, images, start, indices)
    assert after.temperature.dtype == start.temperature.dtype


def test_runs_together_compute_a_learned_temperature_only_when_it_is_due():
    settings = small.settings("sbn", temperature__name="learned", estimator__name="gumbel_softmax")
    for runs in (1, 2):
        compiled = Compiled(settings, Placement(rows=runs))
        text = str(compiled.run.trace(*compiled.shapes_of_run()).jaxpr)
        assert " cond[" in text


def test_a_learned_temperature_stays_over_its_floor(learned):
    _, _, trace = learned(0.75, 2.0)
    assert np.all(trace.temperature >= 0.25)
    assert np.all(np.isfinite(trace.temperature))
    assert np.ptp(trace.temperature) > 0.1


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
        ("sbn", "bernoulli", "muprop"),
        ("vae", "categorical", "vimco"),
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


def test_dynamic_binarization_keeps_the_gray_values_of_a_run():
    for binarization, values in (("threshold", 2), ("dynamic", 17)):
        dataset = prepared_dataset(small.settings(binarization=binarization))
        for split in (dataset.train, dataset.validation, dataset.test):
            assert len(np.unique(split.images)) == dataset.max_value + 1 == values


def step_of_adaptation(program, dynamic, images):
    """A run's start, and the first step's part in learning the temperature."""
    settings, key, state = program.settings, jax.random.key(3), program.init(dynamic, images)
    step = temperature.Step(
        make_estimator(settings.estimator, settings.family, dynamic),
        state.estimator,
        partial(program._objective, dynamic, 0),
        program._objective(dynamic, 0, None, hard=True),
        state.params,
        program._batch(images[:20], key),
        key,
    )
    return state, step


def test_a_learned_temperature_compares_halves_with_the_gradient_of_discrete_samples(
    monkeypatch, dataset, images
):
    """Which is the same whatever KL is trained."""

    def compared(kl):
        settings = small.settings("vae", kl=kl, batch_size=20, temperature__name="learned")
        program, dynamic = Program.make(settings, dataset), dynamic_of(settings)
        given = {}

        def slope(_estimates, references, _temperature, *, average_over):
            given.update(references=references, average_over=average_over)
            return jnp.zeros(())

        monkeypatch.setattr(temperature, "squared_error_slope", slope)

        @small.quick_jit
        def adapted(dynamic, images):
            state, step = step_of_adaptation(program, dynamic, images)
            temperature.adapt(settings.family, dynamic, state.temperature, state.adaptation, step)
            return given

        found = adapted(dynamic, images)
        assert float(found["average_over"]) == 2 * settings.temperature.average_over
        return found["references"]

    one, other = compared("relaxed"), compared("sample")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, other)
    assert any(np.abs(a[0] - a[1]).max() > 1e-3 for a in jax.tree.leaves(one))


def test_the_estimates_that_judge_a_temperature_have_noise_of_their_own(
    monkeypatch, dataset, images
):
    """Or the one estimator's noise would count as the other's bias: so they are no copies."""
    settings = small.settings("vae", batch_size=20, temperature__name="learned")
    program, given = Program.make(settings, dataset), {}

    def slope(estimates, references, value, *, average_over):
        given.update(estimates=estimates(value), references=references)
        return jnp.zeros(())

    monkeypatch.setattr(temperature, "squared_error_slope", slope)

    @small.quick_jit
    def compared(dynamic, images):
        state, step = step_of_adaptation(program, dynamic, images)
        step = step._replace(
            estimator=estimators.sf(settings.family, centering=True),
            state=state.adaptation.reference,
            objective_at=lambda _: step.hard,
        )
        temperature.adapt(settings.family, dynamic, state.temperature, state.adaptation, step)
        return given

    found = compared(dynamic_of(settings), images)
    pairs = zip(*map(jax.tree.leaves, (found["estimates"], found["references"])), strict=True)
    differences = [np.abs(one - other).max(axis=tuple(range(1, one.ndim))) for one, other in pairs]
    assert np.max(differences, axis=0).min() > 1e-3  # in each half


def test_a_learned_temperature_descends_in_the_logarithm_of_its_height_above_the_floor(
    monkeypatch, dataset, images
):
    """d tau / d raw = tau - floor, and the slope is one in log tau."""
    settings = small.settings("vae", batch_size=20, temperature__name="learned")
    program = Program.make(settings, dataset)
    monkeypatch.setattr(temperature, "squared_error_slope", lambda *_, average_over: jnp.float32(3))
    monkeypatch.setattr(temperature, "_adam", optax.identity)

    @small.quick_jit
    def adapted(dynamic, images):
        state, step = step_of_adaptation(program, dynamic, images)
        raw = jnp.log(0.3)
        new, _ = temperature.adapt(settings.family, dynamic, raw, state.adaptation, step)
        return raw - new

    dynamic = dynamic_of(settings) | {"temperature.floor": 0.2, "temperature.learning_rate": 0.1}
    np.testing.assert_allclose(adapted(dynamic, images), 0.1 * 3 * 0.3 / (0.3 + 0.2), rtol=1e-6)
