"""The discrete autoencoder: its cost written out, its numbers, and a run."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import autoencoder as config_file
from experiments import train
from experiments.config import cli
from experiments.data import load
from experiments.files import read_json
from experiments.tasks import autoencoder, functional
from experiments.training import records
from gumbel import CATEGORICAL, exact, samplers
from tests.experiments import small

pytestmark = pytest.mark.usefixtures("shared_programs")

KEY = jax.random.key(4)
D, K = 2, 3
OPTIONS = autoencoder.Options(embedding=4, hidden=5)


@pytest.fixture(name="images", scope="module")
def fixture_images():
    return jnp.asarray(load("digits").binarized().test.images[:3], jnp.float32)


@pytest.fixture(name="model", scope="module")
def fixture_model(images):
    return autoencoder.Autoencoder(jnp.mean(images, axis=0), D, K, OPTIONS, rngs=nnx.Rngs(0))


def affine(layer, inputs):
    return inputs @ np.asarray(layer.kernel[...], np.float64) + np.asarray(layer.bias[...])


def written_out(model, images, kl_weight):
    """The expected cost over all codes of every image, in numpy."""
    flat, codebook = np.asarray(images).reshape(3, -1), np.asarray(model.codebook[...], np.float64)
    hidden = np.maximum(affine(model.inner, flat - np.asarray(model.pixel_mean[...])), 0)
    logits = affine(model.encoder, hidden).reshape(3, D, -1) @ codebook.T
    q = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    costs = kl_weight * (q * (np.log(q) + math.log(K))).sum(axis=(1, 2))
    for first in range(K):
        for second in range(K):
            codes = np.concatenate([codebook[first], codebook[second]])
            top = np.maximum(affine(model.decoder, codes[None]), 0)
            p = 1 / (1 + np.exp(-affine(model.likelihood.linear, top)))
            surprise = -np.log(np.where(flat > 0, p, 1 - p)).sum(axis=-1)
            costs += q[:, 0, first] * q[:, 1, second] * surprise
    return costs


@pytest.mark.parametrize("kl_weight", [1.0, 0.25])
def test_the_cost_is_the_bound_written_out(model, images, kl_weight):
    objective = functional.objective(model, kl_weight=kl_weight)

    @small.quick_jit
    def expected(params, batch):
        return exact.expected_cost(objective, params, batch, KEY, CATEGORICAL)

    found = expected(functional.params_of(model), model.batch(images))
    np.testing.assert_allclose(found, written_out(model, images, kl_weight), rtol=1e-5)


def test_the_hard_cost_is_the_log_weight_of_its_sample(model, images):
    """Whatever KL training has: `-log p(x | z) + log q(z | x) - log p(z)`."""
    params, batch = functional.params_of(model), model.batch(images)
    z = jax.nn.one_hot(jnp.array([[0, 2], [1, 1], [2, 0]]), K)
    sample = samplers.mean_field(CATEGORICAL)
    cost = samplers.condition(functional.objective(model, hard=True), {"z": z})
    found = cost(params, batch, KEY, sample)
    log_q = jax.nn.log_softmax(model.logits(batch))
    kl = jnp.sum(z * log_q, axis=(1, 2)) + D * math.log(K)
    cost = samplers.condition(functional.objective(model, kl_weight=0.0), {"z": z})
    surprise = cost(params, batch, KEY, sample)
    np.testing.assert_allclose(found, surprise + kl, rtol=1e-5)


def test_a_reconstruction_is_of_the_most_probable_codes(model, images):
    pictures = model.pictures(images, KEY)
    assert list(pictures) == ["digit", "reconstruction", "random codes"]
    again = model.pictures(images, jax.random.key(9))
    np.testing.assert_array_equal(pictures["reconstruction"], again["reconstruction"])
    assert np.abs(pictures["random codes"] - again["random codes"]).max() > 0
    assert model.codes(images).shape == (3, D)


def test_usage_counts_codes_and_their_perplexity():
    codes = np.array([[0, 0], [0, 1], [5, 5], [1, 1]])  # 3, 3 and 2 of 8
    found = autoencoder.usage(codes, None)
    shares = np.array([3, 3, 2]) / 8
    assert found["codes_used"] == 3
    assert found["perplexity"] == pytest.approx(np.exp(-np.sum(shares * np.log(shares))))


def test_a_run_says_how_many_codes_it_uses(tmp_path, capsys):
    sizes = {
        "num_classes": 8,
        "hidden": 16,
        "embedding": 4,
        "layers": "(16,)",
        "num_steps": 20,
        "log_every": 10,
        "eval_every": 10,
        "checkpoint_every": 10,
        "steps_per_call": 10,
        "test_num_samples": 2,
        "eval_batch_size": 150,
    }
    flags = [f"--config.{key}={value}" for key, value in sizes.items()]
    files = [f"--config={config_file.__file__}", f"--workdir={tmp_path}"]
    assert cli.run(train.main, [*files, *flags]) == 0
    assert "perplexity: test " in capsys.readouterr().out
    result = read_json(tmp_path / "result.json")
    assert 1 <= result["test_perplexity"] <= result["test_codes_used"] <= 8
    rows = records.read_metrics(tmp_path / "metrics.jsonl")
    assert all("validation_codes_used" in row for row in rows)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["latent=bernoulli"], "config.latent='bernoulli': codes are categorical"),
        (["layers=(512,512)"], "give one layer"),
        (["embedding=0"], "config.embedding=0: give an integer from 1"),
        (["kl_weight=-1.0"], "config.kl_weight=-1.0: give a finite number of at least 0"),
        (["estimator.name=vimco"], "vimco needs the log weight of each sample; use sample"),
    ],
)
def test_a_mistake_is_one_line_with_its_fix(tmp_path, capsys, changes, said):
    files = [f"--config={config_file.__file__}", f"--workdir={tmp_path / 'run'}"]
    assert cli.run(train.main, [*files, *(f"--config.{change}" for change in changes)]) == 2
    assert said in capsys.readouterr().err
