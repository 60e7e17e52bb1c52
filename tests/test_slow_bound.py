"""The second program agrees with ours on every task, and notices a wrong term."""

import jax
import pytest
from jax.flatten_util import ravel_pytree

from configs import semi_supervised as semi_supervised_config
from experiments import config
from experiments.tasks.functional import params_of, with_params
from experiments.training import loading
from scripts import slow_bound, slow_models
from tests.experiments import small


def semi_supervised():
    made = semi_supervised_config.get_config()
    made.update(small.SEMI_SUPERVISED)
    return config.read(made)


def vae(latent, **overrides):
    return small.settings("vae", latent=latent, estimator__name="st", **overrides)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(
            lambda: small.settings("sbn", latent="bernoulli", standardize=False),
            marks=pytest.mark.slow,
        ),
        pytest.param(lambda: vae("bernoulli", decoder=()), marks=pytest.mark.slow),
        pytest.param(lambda: vae("categorical", num_classes=3), marks=pytest.mark.slow),
        pytest.param(
            lambda: small.settings("sbn", latent="categorical", num_classes=3, layers=(6, 3)),
            marks=pytest.mark.slow,
        ),
        semi_supervised,
    ],
    ids=["sbn-bernoulli", "vae-bernoulli", "vae-categorical", "sbn-categorical", "semi-supervised"],
)
def test_both_programs_agree(settings, monkeypatch):
    """On layers that are no longer small or zero, as some start: that would hide mistakes."""
    start = loading.untrained(settings())
    flat, unravel = ravel_pytree(params_of(start.model))
    moved = unravel(flat + 0.3 * jax.random.normal(jax.random.key(7), flat.shape))
    trained = start._replace(model=with_params(start.model, moved))
    found = slow_bound.bounds(trained, 100, 20)
    assert found.agree()
    assert found.error < 0.3
    assert found.images == 100

    likelihood = slow_models.pixel_log_prob
    monkeypatch.setattr(slow_models, "pixel_log_prob", lambda *given: likelihood(*given) - 1.5)
    assert not slow_bound.bounds(trained, 100, 20).agree()
