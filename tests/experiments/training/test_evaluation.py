"""The m-sample bound: against the same sum in float64, and against exact marginal likelihoods."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tasks import functional, generative
from experiments.training import evaluation
from experiments.training.program import Program
from gumbel import BERNOULLI, CATEGORICAL, exact, samplers
from tests.experiments import small
from tests.gumbel.nets import two_layer

KEY = jax.random.key(2)


def bound_of(net, num_samples, at_once=evaluation.SAMPLES_AT_ONCE):
    """The jitted bound of a net, as a function of the key."""

    def bound(key):
        return evaluation.streaming_bound(
            net.objective,
            net.family,
            net.params,
            net.batch,
            key,
            num_samples=num_samples,
            samples_at_once=at_once,
        )

    return small.quick_jit(bound)


def direct_bound(net, num_samples):
    """The same from all costs at once, in float64."""

    @small.quick_jit
    @jax.vmap
    def cost(index):
        key = jax.random.fold_in(KEY, index)
        return samplers.trace(
            net.objective, net.params, net.batch, key, net.family, samplers.hard_draw
        ).cost

    costs = np.asarray(cost(jnp.arange(num_samples)), np.float64)
    return -np.log(np.exp(-costs).mean(axis=0)), costs


# 23 samples are no multiple of 7 or 10, and fewer than 40.
@pytest.mark.parametrize(
    ("family", "sizes"), [(BERNOULLI, (1, 10, 23)), (CATEGORICAL, (7, 40))], ids=str
)
def test_streaming_is_the_direct_sum(family, sizes):
    net = two_layer(family)
    expected, costs = direct_bound(net, 23)
    assert len(np.unique(costs[:, 0])) > 3
    for at_once in sizes:
        found = bound_of(net, 23, at_once)(KEY)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_costs_far_from_zero_neither_overflow_nor_vanish():
    offsets = jnp.array([-2e4, 0.0, 2e4])
    net = two_layer(BERNOULLI, batch_size=3)

    def far(params, batch, key, sample):
        return net.objective(params, batch, key, sample) + offsets

    found = bound_of(net._replace(objective=far), 23)(KEY)
    np.testing.assert_allclose(found, bound_of(net, 23)(KEY) + offsets, rtol=1e-6)


def test_samples_of_weight_zero_count_wherever_they_stand():
    """Among the first of a chunk, or all of one: the mean weight is that of the others."""
    net = two_layer(BERNOULLI, batch_size=3)

    def sometimes(params, batch, key, sample):
        cost = net.objective(params, batch, key, sample)
        return jnp.where(jax.random.bernoulli(key, 0.2), cost, jnp.inf)

    expected, costs = direct_bound(net._replace(objective=sometimes), 23)
    assert np.isinf(costs[:4]).all()
    for at_once in (1, 4, 23):
        found = bound_of(net._replace(objective=sometimes), 23, at_once)(KEY)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@cache
def exact_moments(net):
    """Over all joint values: mean and deviation of the weight `exp(-cost)`, and the mean cost."""

    def mean_of(function):
        def changed(params, batch, key, sample):
            return function(net.objective(params, batch, key, sample))

        return exact.expected_cost(changed, net.params, net.batch, KEY, net.family)

    @small.quick_jit
    def moments():
        return tuple(map(mean_of, (lambda c: jnp.exp(-c), lambda c: jnp.exp(-2 * c), lambda c: c)))

    mean, square, cost = (np.asarray(moment, np.float64) for moment in moments())
    return mean, np.sqrt(square - mean**2), cost


def z_scores(net, bound, num_samples, log_likelihood):
    """Of the mean weight behind a bound, were this the true likelihood."""
    _, deviation, _ = exact_moments(net)
    error = deviation / np.sqrt(num_samples)
    return np.abs(np.exp(-np.asarray(bound, np.float64)) - np.exp(log_likelihood)) / error


NUM_SAMPLES = 20_000
# Two-sided error rate 7e-6 for each of the eight likelihoods that are tested.
LIMIT = 4.5
one_family_quick = pytest.mark.parametrize(
    "family",
    [CATEGORICAL, pytest.param(BERNOULLI, marks=pytest.mark.slow)],
    ids=["categorical", "bernoulli"],
)


@one_family_quick
def test_converges_to_the_likelihood_of_a_stack(family):
    net = two_layer(family)
    bound = bound_of(net, NUM_SAMPLES, 1000)(KEY)
    mean, _, single = exact_moments(net)
    assert z_scores(net, bound, NUM_SAMPLES, np.log(mean)).max() < LIMIT
    # Power: the expected cost, which is the bound of one sample, is rejected.
    assert z_scores(net, bound, NUM_SAMPLES, -single).min() > 2 * LIMIT


def small_vae(family):
    """A VAE of three variables as an objective whose prior and posterior are far from uniform."""
    units = (3,) if family is BERNOULLI else (6,)
    settings = small.settings("vae", latent=family.name, layers=units, kl="analytic")
    dataset = small.dataset()
    model = generative.build(settings, jnp.asarray(dataset.train_mean()), jax.random.key(0))
    params = functional.params_of(model)
    params["prior"] = jax.random.normal(jax.random.key(1), params["prior"].shape)
    params["encoder"]["kernel"] = 2 * params["encoder"]["kernel"]
    params["likelihood"]["linear"]["kernel"] = 2 * params["likelihood"]["linear"]["kernel"]
    batch = model.batch(jnp.asarray(dataset.test.images[:2], jnp.float32))
    return two_layer(family)._replace(
        objective=functional.objective(model, hard=True), params=params, batch=batch
    ), model


def vae_likelihood(net, model):
    """`log sum_z p(z) p(x | z)`, which does not ask the encoder."""
    filled = functional.with_params(model, net.params)
    event = filled.event
    values = net.family.support(event)
    log_prior = net.family.log_prob(net.params["prior"], values).sum(axis=-1)
    log_joint = [
        log_prior - filled.likelihood.cost(filled.decode(values), jnp.tile(pixels, (8, 1)))
        for pixels in net.batch["pixels"]
    ]
    return np.log(np.exp(np.asarray(log_joint, np.float64)).sum(axis=1))


@one_family_quick
def test_converges_to_the_likelihood_of_a_vae(family):
    """Whatever KL it was trained with, evaluation weighs each sample by `p(x, z) / q(z)`."""
    net, model = small_vae(family)
    likelihood = vae_likelihood(net, model)
    mean, _, single = exact_moments(net)
    np.testing.assert_allclose(np.log(mean), likelihood, rtol=1e-5)
    bound = bound_of(net, NUM_SAMPLES, 1000)(KEY)
    assert z_scores(net, bound, NUM_SAMPLES, likelihood).max() < LIMIT
    assert z_scores(net, bound, NUM_SAMPLES, -single).min() > 2 * LIMIT


def test_a_bound_of_few_samples_is_looser():
    """Averaged over keys: one sample gives the expected cost, more a value under it."""
    net = two_layer(CATEGORICAL)
    keys = jax.random.split(KEY, 5000)
    bounds = {m: np.asarray(jax.vmap(bound_of(net, m))(keys), np.float64) for m in (1, 5)}
    mean, _, single = exact_moments(net)
    error = bounds[1].std(axis=0) / np.sqrt(len(keys))
    assert np.all(np.abs(bounds[1].mean(axis=0) - single) < LIMIT * error)
    assert np.all(bounds[5].mean(axis=0) < single - 2 * LIMIT * error)
    assert np.all(bounds[5].mean(axis=0) > -np.log(mean))


def temporary_bytes(num_samples, at_once):
    net = two_layer(BERNOULLI, batch_size=100)
    compiled = bound_of(net, num_samples, at_once).lower(KEY).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_memory_does_not_grow_with_the_number_of_samples():
    few = temporary_bytes(20, 10)
    assert temporary_bytes(2000, 10) < 1.5 * few
    assert temporary_bytes(2000, 2000) > 20 * few, "the measure does not see the samples"


# Over a split


def test_the_mean_over_a_split_counts_each_image_once():
    images = np.random.default_rng(0).integers(0, 255, (7, 2, 2)).astype(np.uint8)
    keys, counts = [], []

    def costs(params, batch, given):
        assert batch.shape == (3, 2, 2)
        keys.append(tuple(np.asarray(jax.random.key_data(given[0]))))
        return params[:, None] * batch.astype(jnp.float32).sum(axis=(1, 2))

    [found] = evaluation.dataset_bounds(
        costs, jnp.ones(1), images, KEY[None], batch_size=3, on_batch=counts.append
    )
    assert found == pytest.approx(images.sum(axis=(1, 2)).mean(), rel=1e-6)
    assert counts == [3, 3, 1]
    assert len(set(keys)) == 3


def test_a_batch_over_the_whole_split():
    images = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)

    def costs(params, batch, keys):
        return batch[None, :, 0, 0].astype(jnp.float32)

    assert evaluation.dataset_bounds(costs, (), images, KEY[None], batch_size=5) == [2.0]


def test_pixels_are_drawn_once_for_all_samples_of_an_image():
    """With a likelihood that reads no sample, more samples must not change the cost."""
    dataset = small.dataset(max_value=16)
    program = Program.make(small.settings(binarization="dynamic"), dataset)
    params = functional.params_of(program.model)
    params["likelihood"]["linear"]["kernel"] *= 0
    images = jnp.asarray(dataset.test.images)

    def costs(num_samples, key):
        image_costs = evaluation.image_costs(program, num_samples)
        return small.quick_jit(image_costs)(params, images, key)

    np.testing.assert_allclose(costs(1, KEY), costs(12, KEY), rtol=1e-5)
    assert not np.allclose(costs(1, KEY), costs(1, jax.random.key(3)))


def test_images_are_weighed_the_same_whatever_kl_was_trained():
    dataset = small.dataset()

    def costs(kl):
        program = Program.make(small.settings("vae", kl=kl), dataset)
        params = functional.params_of(program.model)
        params["prior"] = params["prior"] + 1.0
        image_costs = evaluation.image_costs(program, 1)
        return small.quick_jit(image_costs)(params, jnp.asarray(dataset.test.images), KEY)

    np.testing.assert_allclose(costs("analytic"), costs("sample"), rtol=1e-6)


def test_the_rounding_of_a_bound_does_not_grow_with_its_samples(monkeypatch):
    """The cost of each sample is 60: so is the bound."""

    def objective(params, batch, key, sample):
        return 60.0 + 0 * sample("z", batch)[:, 0]

    @partial(jax.jit, static_argnames="at_once")
    def bound(at_once):
        return evaluation.streaming_bound(
            objective,
            BERNOULLI,
            None,
            jnp.zeros((1, 1)),
            jax.random.key(0),
            num_samples=1_000_001,
            samples_at_once=at_once,
        )

    assert float(bound(1000)[0]) == pytest.approx(60.0, abs=1e-4)
    monkeypatch.setattr(evaluation, "_SAMPLES_PER_SUM", 3)
    few = evaluation.streaming_bound(
        objective, BERNOULLI, None, jnp.zeros((1, 1)), jax.random.key(0), num_samples=7
    )
    assert float(few[0]) == pytest.approx(60.0, abs=1e-4)
