"""A categorical VAE on scikit-learn's 8x8 digits, with no download.

Run:

  make quickstart

Takes 20,000 steps, half a minute on a CPU. Expect a test bound of 17.4 nats, and 17.4 on
validation (results/configs/vae-categorical-gumbel_softmax-20000-seed0.json).
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
