"""A categorical VAE on scikit-learn's 8x8 digits: a minute on one core, with no download.

Run:

  make quickstart
"""

from ml_collections import ConfigDict

from configs import vae


def get_config() -> ConfigDict:
    config = vae.get_config()
    config.dataset = "digits"
    config.layers = (60,)
    config.num_classes = 6
    config.decoder = (60,)
    config.learning_rate = 3e-3
    config.temperature.rate = 5e-5
    config.num_steps = 20_000
    config.eval_every = 1000
    config.test_num_samples = 200
    return config
